"""The lines that TensorFlow's C++ code prints when it starts, which no user can act on.

TensorFlow prints some of them before it reads TF_CPP_MIN_LOG_LEVEL, so that no setting silences them. Run as a program,
this module passes on its standard input to its standard error without these lines.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Mapping

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# This level hides information and warnings, and shows errors.
QUIET_LEVEL = "2"

# `I0000 00:00:1795630544.402392   10353 cudart_stub.cc:31] ...`, or before TensorFlow 2.18
# `2026-01-31 12:00:00.123456: I tensorflow/core/util/port.cc:153] ...`.
_HEAD = r"(?:[IWEF]\d{4} [\d:.]+ +\d+ |\d{4}-\d\d-\d\d [\d:.]+: [IWEF] )(?:\S*/)?"
_SAID = (
    r"cudart_stub\.cc:\d+\] Could not find cuda drivers on your machine",
    r"port\.cc:\d+\] oneDNN custom operations are on",
    r"util\.cc:\d+\] oneDNN supports DT_\w+ only on platforms with AVX-512",
    r"cpu_feature_guard\.cc:\d+\] This TensorFlow binary is optimized to use available CPU instructions",
    r"cuda_(?:fft|dnn|blas)\.cc:\d+\] Unable to register cu(?:FFT|DNN|BLAS) factory",
    r"computation_placer\.cc:\d+\] computation placer already registered",
    # There is no GPU, or no driver. A driver that fails gives other codes, and its line is shown.
    r"cuda_(?:platform|driver)\.cc:\d+\] failed call to cuInit: .*(?:UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE)",
)
_START_UP = re.compile(
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    r"|To enable the following instructions: .* rebuild TensorFlow with the appropriate compiler flags"
    rf"|{_HEAD}(?:{'|'.join(_SAID)})"
)


def is_start_up_line(line: str) -> bool:
    """Returns whether `line` is one of the known lines; any other line is shown, even if it looks like a log line."""
    return _START_UP.match(line) is not None


def hides_start_up_lines(environ: Mapping[str, str]) -> bool:
    """Returns whether nobody has asked for TensorFlow's log by setting TF_CPP_MIN_LOG_LEVEL."""
    return LOG_LEVEL not in environ


def main() -> None:
    """Passes the standard input on, line by line, until its end."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the command, whose last words must come through
    for line in sys.stdin.buffer:
        if not is_start_up_line(line.decode("utf-8", errors="replace")):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


if __name__ == "__main__":
    main()
