# ruff: noqa: E501 (the lines are as TensorFlow prints them)
"""Which lines of TensorFlow's are hidden, and that nothing else is."""

import subprocess
import sys

import pytest

from tfdist.launch.screen import Screen, WorkerOutput
from tfdist.launch.start_up_lines import is_start_up_line
from tfdist.launch.worker_plan import plan_workers

HIDDEN = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795630544.402392   10353 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be used.
E0000 00:00:1795735008.198060   28322 util.cc:131] oneDNN supports DT_BOOL only on platforms with AVX-512. Falling back to the default Eigen-based implementation if present.
I0000 00:00:1795630557.562464   11044 cpu_feature_guard.cc:227] This TensorFlow binary is optimized to use available CPU instructions in performance-critical operations.
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the appropriate compiler flags.
I0000 00:00:1795630557.562464   11044 port.cc:153] oneDNN custom operations are on. You may see slightly different numerical results due to floating-point round-off errors from different computation orders. To turn them off, set the environment variable `TF_ENABLE_ONEDNN_OPTS=0`.
E0000 00:00:1795630685.758905   15246 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)
E0000 00:00:1730000000.123456     421 cuda_dnn.cc:8310] Unable to register cuDNN factory: Attempting to register factory for plugin cuDNN when one has already been registered
W0000 00:00:1730000000.123456     421 computation_placer.cc:177] computation placer already registered. Please check linkage and avoid linking the same target more than once.
2026-01-31 12:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on. You may see slightly different numerical results.
2026-01-31 12:00:00.123456: E external/local_xla/xla/stream_executor/cuda/cuda_fft.cc:477] Unable to register cuFFT factory: Attempting
""".splitlines()

SHOWN = """\
Traceback (most recent call last):
ValueError: Could not find cuda drivers on your machine
WARNING: the learning rate is high
E0000 00:00:1795630685.758905   15246 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: system has unsupported display driver / cuda driver combination
F0000 00:00:1795630685.758905   15246 cpu_feature_guard.cc:54] The TensorFlow library was compiled to use AVX instructions, but these aren't available on your machine.
I0000 00:00:1795630544.402392   10353 coordination_service.cc:31] Could not find a task
W0000 00:00:1795630544.402392   10353 bfc_allocator.cc:501] Allocator (GPU_0_bfc) ran out of memory
""".splitlines()


@pytest.mark.parametrize("line", HIDDEN)
def test_known_lines_are_hidden(line):
    assert is_start_up_line(line)


@pytest.mark.parametrize("line", [*SHOWN, "", "  " + HIDDEN[0]])
def test_everything_else_is_shown(line):
    assert not is_start_up_line(line)


def test_the_reader_of_a_worker_drops_them(capsys):
    output = WorkerOutput(
        Screen(sys.stdout, sys.stderr), "[w] ", error=True, shows_progress=False, hidden=is_start_up_line
    )
    text = "\n".join([HIDDEN[0], SHOWN[0], HIDDEN[1], SHOWN[1]])
    assert output.feed(text.encode(), final=True) == SHOWN[:2]
    assert capsys.readouterr().err == f"[w] {SHOWN[0]}\n[w] {SHOWN[1]}\n"


def test_as_a_program_it_passes_on_the_rest():
    done = subprocess.run(
        [sys.executable, "-m", "tfdist.launch.start_up_lines"],
        input="\n".join([*HIDDEN, *SHOWN]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == "\n".join(SHOWN)


@pytest.mark.parametrize(("environ", "level"), [({}, "2"), ({"TF_CPP_MIN_LOG_LEVEL": "0"}, None)])
def test_workers_get_a_quiet_level_unless_the_user_has_set_one(environ, level):
    (worker,) = plan_workers(["a:1"], [0], ["x"], num_cpus=1, environ=environ)
    assert worker.env.get("TF_CPP_MIN_LOG_LEVEL") == level
    assert "TF_ENABLE_ONEDNN_OPTS" not in worker.env  # it changes numbers
