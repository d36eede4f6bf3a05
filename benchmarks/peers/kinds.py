"""The kinds of contestants: which program, in which Python, and what that must have."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfdist.bench.process import Contestant

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Kind:
    """One way to train.

    Attributes:
        module: The program, run with `-m` from the project's root.
        needs: Packages that the Python must have.
        environment: What it sees beside the parent's environment.
        compiles_shapes: Whether the first step of each padded length is not like the others.
    """

    module: str
    needs: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    compiles_shapes: bool = True


KINDS = {
    "tfdist": Kind("benchmarks.peers.tfdist_run", ("tensorflow", "tfdist"), {"KERAS_BACKEND": "tensorflow"}),
    "keras-tf": Kind(
        "benchmarks.peers.keras_run", ("tensorflow", "keras_hub"), {"KERAS_BACKEND": "tensorflow"}
    ),
    "keras-jax": Kind("benchmarks.peers.keras_run", ("jax", "keras_hub"), {"KERAS_BACKEND": "jax"}),
    "hf": Kind("benchmarks.peers.torch_run", ("torch", "transformers", "accelerate"), compiles_shapes=False),
}


def missing(kind: Kind, python: str) -> list[str]:
    """Returns which packages the Python lacks; all of them if it does not run."""
    code = f"import importlib.util as u; print(*[n for n in {list(kind.needs)} if u.find_spec(n) is None], sep=',')"
    try:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=120, check=True, cwd=ROOT
        )
    except (OSError, subprocess.SubprocessError):
        return list(kind.needs)
    return [name for name in done.stdout.strip().split(",") if name]


def started(kind: Kind, python: str, arguments: Sequence[str], log: Path, **environment: str) -> Contestant:
    """Starts a contestant of that kind; its log goes to the folder `log`.

    Raises:
        ContestantError: It failed before its first step.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"PYTHONPATH": path, **kind.environment, **environment}
    return Contestant([[python, "-m", kind.module, *arguments]], log, [environment])
