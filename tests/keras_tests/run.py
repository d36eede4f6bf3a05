"""Runs Keras's own tests in the scope of strategies: `make keras-tests` writes docs/keras-tests.md.

The test files come from the source distribution of Keras on the package index, in the version that is installed. They
are kept in `build/`, and none is part of this project. What plain Keras fails too does not count. Outcomes are kept
beside them: if names are given, those tests alone are run again, and the page has the newest outcome of each test.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from reasons import REASONS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "keras-tests.md"
SUBJECTS = (
    "trainers",
    "trainers/data_adapters",
    "losses",
    "metrics",
    "optimizers",
    "optimizers/schedules",
    "callbacks",
)
_FOLDERS = [subject for subject in SUBJECTS if "/" not in subject]
PLAIN = "plain"
STRATEGIES = {"mirrored": "`mirrored` of 2", "mesh": "mesh 2x1"}
_LIMIT_S = 240

# The name of a test -> passed, failed or skipped. A test that ended its process has failed.
Outcomes = Mapping[str, str]

_INTRODUCTION = """# Keras's own tests under a strategy

<!-- Written by `make keras-tests`; do not edit. -->

`make keras-tests` downloads the source distribution of Keras {version} and runs its tests of trainers, data adapters,
losses, metrics, optimizers and callbacks: in plain Keras, and in the scope of `mirrored` with two logical CPU devices
and of a mesh 2x1. The scope is entered after the test case's own `setUp`, which clears the session. Tests that need
JAX, PyTorch or Grain are left out. "Fails" counts the tests that pass in plain Keras and fail in the scope.
"""


def test_files(folder: Path) -> Path:
    """Returns a folder with Keras's test files by subject; downloads them if they are not there."""
    keras = version("keras")
    files = folder / f"keras-{keras}-tests"
    if files.exists():
        return files
    source = ["--no-deps", "--no-binary", "keras", "--dest", str(folder), f"keras=={keras}"]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *source], check=True)
    partial = files.with_suffix(".partial")
    with tarfile.open(folder / f"keras-{keras}.tar.gz") as archive:
        for member in archive:
            subject = subject_of(member.name.partition("/keras/src/")[2])
            if subject in SUBJECTS and member.name.endswith("_test.py"):
                member.name = f"{subject}/{Path(member.name).name}"
                archive.extract(member, partial, filter="data")
    return partial.rename(files)


def subject_of(test: str) -> str:
    """Returns the folder of a test, or of a file of tests."""
    return test.partition("::")[0].rpartition("/")[0]


def run_tests(strategy: str, files: Path, folder: Path, jobs: int, only: list[str]) -> None:
    """Runs tests in the scope of a strategy; their outcomes are added to a file in `folder`."""
    (files / "pytest.ini").write_text("[pytest]\n")
    results = _results(folder, strategy).resolve()
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {"KERAS_TESTS_STRATEGY": strategy, "KERAS_TESTS_RESULTS": str(results), "PYTHONPATH": path}
    quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    options = [
        "-p",
        "plugin",
        "-p",
        "no:cacheprovider",
        "--import-mode",
        "importlib",
        "--tb",
        "short",
        "-W",
        "ignore",
    ]
    # A test that hangs ends its process, and the tests after it go on in another.
    limits = ["--timeout", str(_LIMIT_S), "--timeout-method", "thread", "-n", str(jobs)]
    with (folder / f"{strategy}.log").open("w") as log:
        command = [sys.executable, "-m", "pytest", "-q", *options, *limits, *only]
        process = {"cwd": files, "env": os.environ | quiet | environment, "stdout": log}
        subprocess.run(command, check=False, stderr=subprocess.STDOUT, **process)


def outcomes(folder: Path, strategy: str) -> dict[str, str]:
    """Returns the newest outcome of each test that was run in the scope of a strategy."""
    lines = _results(folder, strategy).read_text().splitlines()
    return {record["test"]: record["outcome"] for record in map(json.loads, lines)}


def _results(folder: Path, strategy: str) -> Path:
    return folder / f"{strategy}.jsonl"


def failures(plain: Outcomes, scoped: Outcomes) -> list[str]:
    """Returns the tests that pass in plain Keras and do not in the scope of a strategy."""
    return sorted(
        test for test, outcome in plain.items() if outcome == "passed" and scoped.get(test) != "passed"
    )


def table(plain: Outcomes, scoped: Mapping[str, Outcomes]) -> list[str]:
    """Returns the rows of the table: a subject, its tests that pass in plain Keras, and what fails in each scope."""
    passed = Counter(subject_of(test) for test, outcome in plain.items() if outcome == "passed")
    failed = {
        strategy: Counter(map(subject_of, failures(plain, found))) for strategy, found in scoped.items()
    }
    names = [STRATEGIES[strategy] for strategy in scoped]
    lines = [f"| Tests of | pass in plain Keras | {' | '.join(f'fails, {name}' for name in names)} |"]
    lines.append("|---|" + "---:|" * (1 + len(names)))
    for subject in [subject for subject in SUBJECTS if passed[subject]]:
        counts = [passed[subject], *(failed[strategy][subject] for strategy in scoped)]
        lines.append(f"| {subject} | {' | '.join(map(str, counts))} |")
    totals = [passed.total(), *(failed[strategy].total() for strategy in scoped)]
    return [*lines, f"| all | {' | '.join(map(str, totals))} |"]


def reason_of(test: str, strategy: str) -> str | None:
    """Returns why a test fails in the scope of a strategy, if that is known."""
    found = (
        reason.why for reason in REASONS if strategy in reason.strategies and re.search(reason.tests, test)
    )
    return next(found, None)


def explained(plain: Outcomes, scoped: Mapping[str, Outcomes]) -> tuple[list[str], list[str]]:
    """Returns the list of failures by reason, and the failures that have none."""
    by_reason: dict[str, dict[str, list[str]]] = {}
    unexplained = []
    for strategy, found in scoped.items():
        for test in failures(plain, found):
            why = reason_of(test, strategy)
            if why is None:
                unexplained.append(f"{strategy}: {test}")
            else:
                tests = by_reason.setdefault(why, {})
                tests.setdefault(test.rpartition("::")[2], []).append(STRATEGIES[strategy])
    lines = []
    for why, tests in by_reason.items():
        lines += [f"- {why}", *(f"  - `{test}`: {', '.join(names)}" for test, names in tests.items())]
    return lines or ["Nothing."], unexplained


def page(plain: Outcomes, scoped: Mapping[str, Outcomes]) -> str:
    """Returns docs/keras-tests.md."""
    listed, _ = explained(plain, scoped)
    head = _INTRODUCTION.format(version=version("keras"))
    return "\n".join([head, *table(plain, scoped), "", "## What fails, and why", "", *listed, ""])


def main() -> int:
    """Runs the tests; returns 1 if one fails for no known reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="processes that run tests")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "keras-tests")
    parser.add_argument("--strategies", nargs="*", default=[PLAIN, *STRATEGIES])
    parser.add_argument("--only", nargs="+", help="folders, files or names of tests that are run again")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    files = test_files(folder)
    for strategy in arguments.strategies:
        if not arguments.only:
            _results(folder, strategy).unlink(missing_ok=True)
        run_tests(strategy, files, folder, arguments.jobs, arguments.only or _FOLDERS)
    plain = outcomes(folder, PLAIN)
    scoped = {strategy: outcomes(folder, strategy) for strategy in STRATEGIES}
    print("\n".join(table(plain, scoped)))
    PAGE.write_text(page(plain, scoped))
    _, unexplained = explained(plain, scoped)
    for failure in unexplained:
        print(f"fails for no known reason: {failure}", file=sys.stderr)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
