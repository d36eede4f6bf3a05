import io

import pytest

from tfdist.launch.screen import Screen, WorkerOutput


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def show():
    """Feeds chunks of one stream and returns what was shown."""

    def _show(*chunks, shows_progress=True, stream=None):
        stream = stream or io.StringIO()
        output = WorkerOutput(Screen(stream, stream), "[w] ", error=False, shows_progress=shows_progress)
        lines = [line for chunk in chunks for line in output.feed(chunk)] + output.feed(b"", final=True)
        return stream.getvalue(), lines

    return _show


def test_lines_are_put_together_from_chunks(show):
    assert show(b"a\nb", b"c\n", "é".encode()[:1], "é".encode()[1:] + b"\r\n") == (
        "[w] a\n[w] bc\n[w] é\n",
        ["a", "bc", "é"],
    )


def test_open_last_line_and_bytes_that_are_no_text(show):
    assert show(b"end\xff") == ("[w] end\ufffd\n", ["end\ufffd"])


def test_progress_of_the_first_worker_passes(show):
    assert show(b"\b\b\r1/2", b"\b\b\b\r2/2\n", b"done\n") == ("\r[w] 1/2\r[w] 2/2\n[w] done\n", ["done"])


def test_progress_of_the_others_is_dropped(show):
    text, lines = show(b"a\n\r1/2", b"\b\b\b\r2/2", b"\n\n\r2/2\nb\n\r3/3\r", shows_progress=False)
    assert (text, lines) == ("[w] a\n[w] \n[w] b\n", ["a", "", "b"])


def test_a_line_does_not_run_into_the_bar():
    stream = io.StringIO()
    screen = Screen(stream, stream)
    screen.progress("1/2")
    screen.line("other")
    assert stream.getvalue() == "\r1/2\nother\n"


def test_on_a_terminal_the_bar_stays_below(monkeypatch):
    monkeypatch.setenv("COLUMNS", "5")
    stream = Terminal()
    screen = Screen(stream, stream)
    screen.progress("1/2")
    screen.line("other")
    screen.finish_progress("\x1b[1m2/2\x1b[0m done")
    assert stream.getvalue() == "\r1/2\x1b[K\r\x1b[Kother\n\r1/2\x1b[K\r\x1b[1m2/2\x1b[0m \x1b[K\n"


def test_error_lines_go_to_standard_error():
    out, err = io.StringIO(), io.StringIO()
    Screen(out, err).line("oh", error=True)
    assert (out.getvalue(), err.getvalue()) == ("", "oh\n")
