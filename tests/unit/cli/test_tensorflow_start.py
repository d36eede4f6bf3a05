"""What a command prints while TensorFlow loads: nothing of its start-up lines, and all of an error."""

import os
import subprocess
import sys

import pytest

STARTING = "from tfdist.cli.tensorflow_start import load_tensorflow, start_up_lines_hidden\n"
KNOWN = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TF_CPP", "CUDA"))}
    return subprocess.run(
        [sys.executable, "-c", STARTING + code],
        capture_output=True,
        text=True,
        timeout=120,
        env=env | environment,
        check=False,
    )


def test_tensorflow_loads_in_silence_and_its_errors_are_still_on():
    done = run(
        "import os, sys; load_tensorflow(); import tensorflow as tf\n"
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'], os.environ.get('TF_ENABLE_ONEDNN_OPTS'), tf.constant(1) + 1)\n"
        "os.write(2, b'after\\n')"
    )
    assert done.stdout.startswith("2 None tf.Tensor(2"), done.stderr
    assert done.stderr == "after\n"


def test_a_level_that_the_user_has_set_stays():
    done = run("load_tensorflow()", TF_CPP_MIN_LOG_LEVEL="0")
    assert KNOWN in done.stderr
    assert "This TensorFlow binary is optimized" in done.stderr


@pytest.mark.parametrize(
    ("ending", "returncode", "last"),
    [
        ("raise ValueError('a bad wheel')", 1, "ValueError: a bad wheel"),
        (
            "os.write(2, b'F0000 00:00:1 2 x.cc:1] no AVX\\n'); os.abort()",
            -6,
            "F0000 00:00:1 2 x.cc:1] no AVX",
        ),
    ],
)
def test_an_error_during_the_start_is_shown(ending, returncode, last):
    done = run(
        f"import os\nwith start_up_lines_hidden():\n    os.write(2, b'{KNOWN}\\nkept\\n')\n    {ending}\n"
    )
    assert done.returncode == returncode
    assert done.stderr.startswith("kept\n")
    assert done.stderr.rstrip().endswith(last)
    assert KNOWN not in done.stderr


def test_a_command_without_standard_error():
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" 2>&-', sys.executable, STARTING + "load_tensorflow(); print('done')"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "done\n"
