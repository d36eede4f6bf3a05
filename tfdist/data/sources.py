"""Where examples come from: a file, a folder of splits, TFDS, or a corpus that a package carries."""

from __future__ import annotations

from collections.abc import Sequence

from tfdist.config.schema import DataConfig
from tfdist.data.examples import Example


def load_splits(
    config: DataConfig, task: str, *, needed: Sequence[str] = ("train",)
) -> dict[str, list[Example]]:
    """Reads all examples that `config.path` names.

    Args:
        config: `path` is a file (split by a hash of the text into 80/10/10 percent), a folder with
            `train`, `validation` (or `dev`, `valid`, `val`) and `test` files of one format, `tfds:NAME[:CONFIG]`,
            or `package:chatterbot-corpus`. `format` overrides what the file's extension says.
        task: `text-classification` gives `TextExample`s, `token-classification` gives `TaggedExample`s.
        needed: Splits that must be there.

    Returns:
        The examples of each split, in file order. Keys are among `train`, `validation`, `test`; no split is empty.

    Raises:
        DataError: If something is missing or malformed; the message names the file and, where there is one, the line.
    """
    raise NotImplementedError
