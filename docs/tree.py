"""Writes docs/tree.md, the tree of files, from the first docstring lines of the modules: `make tree`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tree.md"
# What has no docstring.
OTHER = {
    "README.md": "what tfdist is, its two commands, its strategies, and where to read on",
    "ARCHITECTURE.md": "layers, life of one `fit` call, how to add a strategy, model, task or patch",
    "CONTRIBUTING.md": "the commands and rules for changes",
    "CHANGELOG.md": "what changed in each version",
    "Makefile": "train, test, check, bench and what else there is to run: `make help`",
    "setup.cfg": "metadata, extras, import contracts, settings of mypy and pytest",
    "ruff.toml": "lint and format rules",
    ".ci/run": "fresh environment, then `make lint`, `make test` and `make wide`",
    "pyproject.toml": "the build system",
    "LICENSE": "Apache-2.0",
    "docs/": "one page a subject; parity, keras-tests, parallelisms/mesh_layers and tree are written by tools",
    "notebooks/": "00_quickstart: one device against two; 01_tensor_parallel: a BERT in pieces; executed by the tests",
    "benchmarks/": "speed beside plain Keras, stock strategies and peers; collectives, bytes and memory",
    "tests/": "architecture, unit (as tfdist/), parity, canaries, multi_device, multi_process, e2e, keras_tests",
}

_INTRODUCTION = """# Where what is

<!-- Written by `make tree`; do not edit. -->

Each comment is the first line of the module's docstring. [Architecture](../ARCHITECTURE.md) tells how the parts fit
together.
"""


def tree_lines() -> list[str]:
    """Returns the lines of the tree: path and comment, two spaces of indentation for each folder."""
    rows = [(name, comment) for name, comment in OTHER.items() if (ROOT / name).exists()]
    rows += _package_rows(ROOT / "tfdist", depth=0)
    width = max(len(name) for name, _ in rows) + 2
    return [f"{name:<{width}}{comment}" for name, comment in rows]


def _package_rows(folder: Path, depth: int) -> list[tuple[str, str]]:
    indent = "  " * depth
    rows = [(f"{indent}{folder.name}/", _summary(folder / "__init__.py"))]
    rows += [
        (f"{indent}  {path.name}", _summary(path))
        for path in sorted(folder.glob("*.py"))
        if path.name != "__init__.py"
    ]
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").exists():
            rows += _package_rows(inner, depth + 1)
    return rows


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.partition("\n")[0].removesuffix(".")


def page() -> str:
    """Returns the text of docs/tree.md."""
    return _INTRODUCTION + "\n```\n" + "\n".join(tree_lines()) + "\n```\n"


def main() -> None:
    """Writes docs/tree.md."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
