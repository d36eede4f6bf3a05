"""The shape of the code: layers, sizes, names, and where the internals of Keras and TensorFlow are touched."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "tfdist").rglob("*.py"))
INTERNALS = ROOT / "tfdist" / "_internals"
MAX_LINES = 400
# Modules of such names take in everything, and layers end there.
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
PRIVATE = ("keras.src", "tensorflow.python", "tensorflow.core", "tensorflow.compiler")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run_python(code: str) -> subprocess.CompletedProcess:
    """Runs `code` in a process of its own, from the project's root."""
    return subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def imported_modules(tree: ast.Module) -> set[str]:
    """Returns the dotted names that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_imports_run_one_way():
    done = run_python("from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 3 kept, 0 broken." in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_module_is_short_and_has_a_telling_name(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert not BANNED_NAMES & {*path.relative_to(ROOT).parent.parts, path.stem}


def private_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {name for name in imported_modules(tree) if name.startswith(PRIVATE)}
    # `keras.src` and `tf.python` are reached by attribute too.
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted = f"{node.value.id}.{node.attr}"
            if dotted in ("keras.src", "tf.python", "tensorflow.python", "tf.__internal__"):
                found.add(dotted)
    return found


@pytest.mark.parametrize("path", [path for path in SOURCES if INTERNALS not in path.parents], ids=ids)
def test_internals_of_keras_and_tensorflow_are_left_alone(path):
    assert not private_imports(path)


def test_private_imports_are_seen():
    assert private_imports(INTERNALS / "losses.py") == {"keras.src.losses.loss"}


def test_import_of_the_package_loads_no_tensorflow():
    code = (
        "import sys, tfdist, tfdist.config.loader, tfdist.cluster, tfdist.launch.local, tfdist.cli.main\n"
        "print([name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules])"
    )
    done = run_python(code)
    assert done.stdout == "[]\n", done.stderr


LAZY_PACKAGES = ("tfdist", "tfdist.models", "tfdist.data")


def test_every_public_name_can_be_loaded():
    done = run_python(
        "import importlib\n"
        f"for package in map(importlib.import_module, {LAZY_PACKAGES}):\n"
        "    assert len(set(package.__all__)) == len(package.__all__)\n"
        "    assert all(getattr(package, name) is not None for name in package.__all__)\n"
        "    assert set(package.__all__) <= set(dir(package))"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module(package).no_such_name
