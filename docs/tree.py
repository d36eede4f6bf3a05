"""Writes the tree in README.md from the first docstring lines of the modules: `make tree`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
# What has no docstring.
OTHER = {
    "README.md": "this page",
    "ARCHITECTURE.md": "layers, life of one `fit` call, how to add a strategy, model, task or patch",
    "CONTRIBUTING.md": "the commands and rules for changes",
    "CHANGELOG.md": "what changed in each version",
    "Makefile": "train, test, check, bench and what else there is to run: `make help`",
    "setup.cfg": "metadata, extras, import contracts, settings of mypy and pytest",
    "ruff.toml": "lint and format rules",
    ".ci/run": "fresh environment, then `make test`",
    "docs/": "pages on strategies, data, launching, parity, TensorBoard, TPU, and coming from Horovod",
    "notebooks/": "00_quickstart: one device against two; 01_tensor_parallel: a BERT in pieces; executed by the tests",
    "benchmarks/": "step overhead and collectives, measured against plain Keras and stock strategies",
    "tests/": "architecture, unit (mirrors tfdist/), parity, multi_device, multi_process, e2e",
}


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


def main() -> None:
    """Replaces the tree in README.md."""
    block = "```\n" + "\n".join(tree_lines()) + "\n```"
    text, count = re.subn(r"```\nREADME\.md .*?```", lambda _: block, README.read_text(), flags=re.DOTALL)
    if count != 1:
        raise SystemExit("README.md holds no tree that begins with README.md.")
    README.write_text(text)


if __name__ == "__main__":
    main()
