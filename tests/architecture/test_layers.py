"""The shape of the code: layers, sizes, names, and where the internals of Keras and TensorFlow are touched."""

from __future__ import annotations

import ast
import importlib
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import shape

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "tfdist").rglob("*.py"))
INTERNALS = ROOT / "tfdist" / "_internals"
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
    assert "Contracts: 4 kept, 0 broken." in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_module_is_short_and_has_a_telling_name(path):
    assert shape.num_lines(path) <= 300
    assert not [name for name, size in shape.functions(path) if size > 60]
    assert not BANNED_NAMES & {*path.relative_to(ROOT).parent.parts, path.stem}


def test_the_whole_has_its_shape():
    assert statistics.median(map(shape.num_lines, SOURCES)) <= 90
    assert max(shape.folder_sizes(SOURCES).values()) <= 14
    assert not shape.circles(shape.imports(SOURCES, ROOT))
    assert not shape.repeats(SOURCES)


def test_every_folder_says_what_lives_there():
    for folder in shape.folder_sizes(SOURCES):
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert text and len(re.findall(r"[.;:](\s|$)", text)) >= 2, folder


@pytest.mark.parametrize("room", ["fit", "step"])
def test_no_patch_asks_which_strategy_is_on(room):
    asked = [question for path in (INTERNALS / room).glob("*.py") for question in shape.questions(path)]
    assert not asked


def test_a_question_is_seen(tmp_path):
    code = tmp_path / "patch.py"
    code.write_text(
        "isinstance(batch, ReplicaBatch)\nhasattr(strategy, 'mesh')\nx.num_replicas_in_sync == 1\n"
    )
    assert len(shape.questions(code)) == 3


def test_circles_and_repeats_are_seen(tmp_path):
    (tmp_path / "tfdist").mkdir()
    body = "\n".join(f"    number = number + {index}" for index in range(shape.RUN))
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / "tfdist" / f"{name}.py").write_text(
            f"from tfdist import {other}\ndef add(number):\n{body}\n"
        )
    paths = shape.sources(tmp_path)
    assert shape.circles(shape.imports(paths, tmp_path)) == ["tfdist.one", "tfdist.two"]
    assert len(shape.repeats(paths)) == 1


def test_every_patch_is_named_as_its_module():
    from tfdist._internals.patches import list_patches

    for patch in list_patches():
        assert (INTERNALS / (patch.name.replace(".", "/") + ".py")).exists(), patch.name


def test_the_table_of_a_mesh_is_that_of_the_patches():
    from tfdist._internals.mesh.operations.table import OPERATIONS
    from tfdist._internals.step.operations import NAMES

    assert set(OPERATIONS) == NAMES


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
    assert private_imports(INTERNALS / "step" / "losses.py") == {"keras.src.losses.loss"}


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
