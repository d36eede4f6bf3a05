"""One fine-tuning job on disk: settings, tokens, and which rows form which batch, the same for all contestants."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# What a token label is where nothing is to be learned.
IGNORED = -1


@dataclass(frozen=True)
class Split:
    """Examples one after the other: example i is `ids[row_splits[i]:row_splits[i + 1]]`.

    `labels` has one entry for each example, or for token tasks one for each token, with -1 where nothing is learned.
    """

    ids: np.ndarray
    row_splits: np.ndarray
    labels: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.row_splits)

    def padded(self, rows: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns token ids and mask of `rows`, both int32 (rows, length); the pad is 0, as BERT has it."""
        ids, mask = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), np.int32)
        for place, row in enumerate(rows):
            found = self.ids[self.row_splits[row] : self.row_splits[row + 1]]
            ids[place, : len(found)], mask[place, : len(found)] = found, 1
        return ids, mask

    def targets(self, rows: np.ndarray, length: int, per_token: bool) -> np.ndarray:
        """Returns labels int32 (rows,), or (rows, length) with -1 where nothing is learned."""
        if not per_token:
            return self.labels[rows].astype(np.int32)
        targets = np.full((len(rows), length), IGNORED, np.int32)
        for place, row in enumerate(rows):
            found = self.labels[self.row_splits[row] : self.row_splits[row + 1]]
            targets[place, : len(found)] = found
        return targets


@dataclass(frozen=True)
class Job:
    """What a contestant trains.

    Attributes:
        folder: Where the job lies.
        settings: `model` (folder in the Hugging Face layout), `task`, `num_labels`, `per_token`, `learning_rate`,
            `weight_decay`, `warmup_steps`, `num_steps` (of all epochs), `global_clipnorm`, `max_length`,
            `bucket_step`, `global_batch_size`, `epochs`.
    """

    folder: Path
    settings: dict[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> Job:
        return cls(Path(folder), json.loads((Path(folder) / "job.json").read_text()))

    @property
    def head(self) -> np.ndarray | None:
        """The kernel that every contestant's head begins with, (width, labels); None if each draws its own."""
        path = self.folder / "head.npy"
        return np.load(path) if path.exists() else None

    def split(self, name: str) -> Split:
        with np.load(self.folder / f"{name}.npz") as found:
            return Split(found["ids"], found["row_splits"], found["labels"])

    def batches(self, seed: int, epoch: int) -> list[tuple[np.ndarray, int]]:
        """Returns for each batch of an epoch its rows, and the length in tokens that buckets pad it to."""
        with np.load(self.folder / f"plan-{seed}-{epoch}.npz") as found:
            order, bounds, lengths = found["order"], found["bounds"], found["lengths"]
        return [(order[a:b], int(length)) for (a, b), length in zip(bounds, lengths, strict=True)]

    def test_batches(
        self, split: Split, rows: int = 32, multiple: int = 32
    ) -> Iterator[tuple[np.ndarray, int]]:
        """Yields batches of like lengths, in few shapes, since some contestants compile each."""
        order = np.argsort(split.lengths, kind="stable")
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            yield (
                chosen,
                min(-(-int(split.lengths[chosen].max()) // multiple) * multiple, self.settings["max_length"]),
            )

    def save_logits(self, path: str | Path, logits: dict[int, np.ndarray]) -> None:
        """Writes the logits of each test example, in the examples' order, as one array of rows.

        Args:
            path: The `.npz` file.
            logits: Number of the example -> (labels,), or (tokens, labels) for token tasks.
        """
        ordered = [np.atleast_2d(np.asarray(logits[row], np.float32)) for row in range(len(logits))]
        np.savez(path, values=np.concatenate(ordered), sizes=[len(one) for one in ordered])
