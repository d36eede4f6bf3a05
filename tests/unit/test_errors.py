"""An absent optional library is answered with the extra that brings it."""

import subprocess
import sys
import textwrap

import pytest

from tfdist.errors import MissingPackageError, explain_missing

# Hides TensorFlow from the process, as where no extra is installed.
WITHOUT_TENSORFLOW = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def run_without_tensorflow(code: str) -> subprocess.CompletedProcess:
    code = WITHOUT_TENSORFLOW + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("module", "extra"), [("tensorflow.data", "tensorflow"), ("tokenizers", "text"), ("keras_hub", "hub")]
)
def test_extra_is_named(module, extra):
    explained = explain_missing(ModuleNotFoundError(name=module))
    assert isinstance(explained, ImportError)
    assert f"pip install 'tfdist[{extra}]'" in str(explained)


@pytest.mark.parametrize("module", ["tensorflow_of_mine", None])
def test_other_libraries_are_not_explained(module):
    assert explain_missing(ModuleNotFoundError(name=module)) is None


def test_library_without_tensorflow():
    done = run_without_tensorflow("import tfdist; tfdist.create_strategy")
    assert MissingPackageError.__name__ in done.stderr.splitlines()[-1]
    assert "pip install 'tfdist[tensorflow]' (or [cuda] on GPUs, [tpu] on TPUs)" in done.stderr


def test_command_line_without_tensorflow(tmp_path):
    done = run_without_tensorflow(
        f"from tfdist.cli.main import main; sys.exit(main(['evaluate', '--run', {str(tmp_path)!r}]))"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: The library 'tensorflow' is not installed."), done.stderr
    assert "Traceback" not in done.stderr


def test_missing_module_of_ones_own_keeps_its_traceback(monkeypatch):
    import tfdist

    monkeypatch.setitem(tfdist._PUBLIC, "absent", "no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = tfdist.absent
