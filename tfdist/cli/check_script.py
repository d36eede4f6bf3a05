"""`tfdist test --script`: runs a training script up to its self check, and stops it there."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from tfdist.cli.tensorflow_start import load_tensorflow
from tfdist.errors import ConfigError


def check_script(script: str, arguments: Sequence[str]) -> int:
    """Runs a script until the first training step was checked.

    Args:
        script: Path of the script. It makes its own strategy.
        arguments: Its arguments.

    Returns:
        The exit code: 0 if the check was passed.

    Raises:
        ConfigError: There is no such script.
        SelfCheckError: The step is not that of one device, or cannot be checked.
    """
    if not Path(script).is_file():
        raise ConfigError(f"--script {script}: there is no such file. Give the path of a training script.")
    load_tensorflow()
    from tfdist._internals import check  # noqa: PLC0415

    os.environ[check.ENVIRONMENT] = "on"
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).resolve().parent))
    try:
        with check.stopping_after():
            runpy.run_path(script, run_name="__main__")
    except check.Checked as checked:
        print(f"{script}: {checked}; stopped before its first step")
        return 0
    print(
        f"error: {script} ended, and no training step was checked: it did not call fit under a strategy of several "
        "devices.",
        file=sys.stderr,
    )
    return 1
