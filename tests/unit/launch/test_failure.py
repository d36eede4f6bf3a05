import signal

import pytest

from tfdist.launch.failure import Failure, first_cause

RAISED = """\
2026-01-31 12:00:00.123456: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow binary
Traceback (most recent call last):
  File "old.py", line 1, in <module>
OSError: handled long ago
and then
Traceback (most recent call last):
  File "train.py", line 2, in <module>
KeyError: 'inner'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "train.py", line 4, in <module>
    fit()  # UnavailableError is handled elsewhere
ValueError: bad label
  with a second line
E0000 00:00:1700000000.123456    12 coordination_service_agent.cc:516] UNAVAILABLE: gone""".splitlines()
NOISE = """\
Traceback (most recent call last):
  File "train.py", line 9, in <module>
tensorflow.python.framework.errors_impl.UnavailableError: Collective ops is aborted by: peer went
away""".splitlines()


def failure(returncode=1, stderr=(), time=0.0, name="worker 0"):
    return Failure(name=name, returncode=returncode, stderr=stderr, time=time)


def test_own_error_is_the_last_chain_of_tracebacks():
    text = failure(stderr=RAISED).own_error
    assert text.splitlines()[0] == "Traceback (most recent call last):"
    assert "KeyError: 'inner'" in text
    assert text.endswith("ValueError: bad label\n  with a second line")
    assert "old.py" not in text


def test_own_error_without_a_traceback_is_the_tail():
    lines = [f"line {i}" for i in range(50)]
    assert failure(returncode=3, stderr=lines).own_error.splitlines() == lines[-20:]


def test_only_cpp_log_is_shown_as_it_is():
    lines = ["E0000 00:00:1700000000.123456    12 agent.cc:516] UNAVAILABLE: gone"]
    assert failure(returncode=-signal.SIGABRT, stderr=lines).own_error == lines[0]
    assert failure(returncode=-signal.SIGKILL, stderr=lines).own_error == ""


@pytest.mark.parametrize(
    ("returncode", "code", "reason"),
    [
        (3, 3, "exit code 3"),
        (-9, 137, "killed by SIGKILL, perhaps for lack of memory"),
        (-11, 139, "killed by SIGSEGV"),
        (-33, 161, "signal 33"),
    ],
)
def test_exit_code_and_reason(returncode, code, reason):
    assert failure(returncode).exit_code == code
    assert reason in failure(returncode).reason


@pytest.mark.parametrize(
    ("returncode", "stderr", "noise"),
    [
        (1, RAISED, False),
        (1, NOISE, True),
        (1, ["error: something of one's own"], False),
        (-signal.SIGABRT, ["F0000 agent.cc: heartbeat lost"], True),
        (-signal.SIGKILL, NOISE, False),
        (-signal.SIGSEGV, ["UNAVAILABLE"], False),
    ],
)
def test_peer_noise(returncode, stderr, noise):
    assert failure(returncode, stderr).is_peer_noise is noise


def test_first_cause_is_no_peer_noise():
    noise, own = failure(stderr=NOISE, time=1.0, name="a"), failure(stderr=RAISED, time=1.5, name="b")
    later = failure(stderr=RAISED, time=2.0, name="c")
    assert first_cause([later, noise, own]) is own
    assert first_cause([failure(stderr=NOISE, time=2.0), noise]) is noise
