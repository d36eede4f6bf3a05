"""Shows the output of several workers on one terminal: prefixed lines, and one progress bar."""

from __future__ import annotations

import codecs
import re
import shutil
import threading
from collections.abc import Callable
from typing import TextIO

_ESCAPE = re.compile(r"(\x1b\[[0-9;]*[A-Za-z])")


class Screen:
    """Writes whole lines of all workers, and keeps one progress bar below them.

    Args:
        stdout: where the workers' standard output and the progress bar go.
        stderr: where their standard error goes.
    """

    def __init__(self, stdout: TextIO, stderr: TextIO) -> None:
        self._stdout, self._stderr = stdout, stderr
        self._lock = threading.Lock()
        self._bar = ""
        self._is_terminal = stdout.isatty()

    def line(self, text: str, *, error: bool = False) -> None:
        """Writes one line, to standard error if `error`."""
        with self._lock:
            bar = self._bar
            if bar:
                self._write(self._stdout, "\r\x1b[K" if self._is_terminal else "\n")
                self._bar = ""
            self._write(self._stderr if error else self._stdout, text + "\n")
            if bar and self._is_terminal:
                self._show(bar)

    def progress(self, text: str) -> None:
        """Writes `text` over the last progress bar."""
        with self._lock:
            self._show(text)

    def finish_progress(self, text: str) -> None:
        """Writes `text` over the last progress bar and goes to the next line."""
        with self._lock:
            self._show(text)
            self._write(self._stdout, "\n")
            self._bar = ""

    def _show(self, text: str) -> None:
        if self._is_terminal:
            # The next bar could not be written over a bar that wraps to the next line.
            text = _cut(text, shutil.get_terminal_size().columns - 1)
        self._write(self._stdout, "\r" + text + ("\x1b[K" if self._is_terminal else ""))
        self._bar = text

    def _write(self, stream: TextIO, text: str) -> None:
        stream.write(text)
        stream.flush()


def _cut(text: str, width: int) -> str:
    """Returns at most `width` visible characters of `text`, with all its escape sequences."""
    parts = []
    for part in _ESCAPE.split(text):
        if not part.startswith("\x1b"):
            part = part[:width]
            width -= len(part)
        parts.append(part)
    return "".join(parts)


class WorkerOutput:
    """Takes the bytes of one stream of one worker apart into lines and progress updates.

    A progress bar is text after a carriage return. It is shown if `shows_progress` is true and dropped otherwise, so
    that the bars of several workers do not overwrite each other.

    Args:
        screen: where the output goes.
        prefix: what stands before each line.
        error: whether the stream is standard error.
        shows_progress: whether this worker's progress bar is the one to show.
        hidden: says which lines are dropped.
    """

    def __init__(
        self,
        screen: Screen,
        prefix: str,
        *,
        error: bool,
        shows_progress: bool,
        hidden: Callable[[str], bool] = lambda line: False,
    ) -> None:
        self._screen, self._prefix, self._error, self._shows_progress = screen, prefix, error, shows_progress
        self._hidden = hidden
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""
        self._dropped = (
            False  # whether the beginning of the open line was a progress update that was not shown
        )

    def feed(self, data: bytes, *, final: bool = False) -> list[str]:
        """Shows `data`, and returns the complete lines in it that are shown and no progress updates.

        Args:
            data: what was read.
            final: whether the stream has ended, so that an open line is complete.
        """
        *ended, self._pending = (self._pending + self._decoder.decode(data, final=final)).split("\n")
        if final and self._pending:
            ended.append(self._pending)
            self._pending = ""
        lines = []
        for text in ended:
            update = _last_update(text)
            dropped, self._dropped = self._dropped, False
            if dropped and not text:
                continue
            if update is None:
                if self._hidden(text):
                    continue
                lines.append(text.rstrip("\r"))
                self._screen.line(self._prefix + lines[-1], error=self._error)
            elif self._shows_progress:
                self._screen.finish_progress(self._prefix + update)
        update = _last_update(self._pending)
        if update is not None:
            if self._shows_progress:
                self._screen.progress(self._prefix + update)
            else:
                self._pending, self._dropped = "", True
        return lines


def _last_update(text: str) -> str | None:
    """Returns the text after the last carriage return, or None if the text is an ordinary line."""
    text = text.rstrip("\r")  # a line may end in CR LF
    if "\r" not in text:
        return None
    return text.rpartition("\r")[2].rstrip("\b")
