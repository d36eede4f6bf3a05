"""The folder of one run: which file lies where."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tfdist.errors import ConfigError, ModelError


@dataclass(frozen=True)
class RunFolder:
    """Paths inside the output folder of a run, for training, evaluation and prediction alike."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "run.yaml"

    @property
    def labels(self) -> Path:
        return self.path / "labels.json"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def best_model(self) -> Path:
        return self.path / "best.keras"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def export_text(self) -> Path:
        return self.path / "export_text"

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Makes the folder of a new run.

        Raises:
            ConfigError: The path is a file or a folder that is not empty, or it cannot be written.
        """
        path = Path(path)
        cure = "Give another folder with --output."
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise ConfigError(
                    f"Output folder {str(path)!r} is not empty; it must be empty or absent. {cure}"
                )
            probe = path / ".writable"
            probe.touch()
            probe.unlink()
        except FileExistsError as error:
            raise ConfigError(f"Output {str(path)!r} is a file, not a folder. {cure}") from error
        except OSError as error:
            raise ConfigError(
                f"Output folder {str(path)!r} cannot be written: {error.strerror or error}. {cure}"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Returns the folder of a finished run.

        Raises:
            ModelError: The folder is absent, or one of its files is missing.
        """
        folder = cls(Path(path))
        needed = (folder.config, folder.labels, folder.tokenizer, folder.best_model)
        missing = [part.name for part in needed if not part.exists()]
        if missing:
            what = f"lacks {', '.join(missing)}" if folder.path.is_dir() else "is not a folder"
            raise ModelError(
                f"{str(path)!r} {what}; a run folder holds {', '.join(part.name for part in needed)}. "
                "Give the --output folder of a `tfdist train` that finished."
            )
        return folder

    def read_labels(self) -> list[str]:
        """Returns the label names, in the order of the model's outputs."""
        try:
            labels = json.loads(self.labels.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{str(self.labels)!r} is not valid JSON ({error}). Train again.") from error
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise ModelError(f"{str(self.labels)!r} must hold a list of label names. Train again.")
        return labels
