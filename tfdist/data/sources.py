"""Where examples come from: a file, a folder of splits, TFDS, or a corpus that a package carries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tfdist.config.schema import DataConfig
from tfdist.data.examples import Example, TextExample
from tfdist.data.labels import labels_of
from tfdist.data.readers.chatterbot import PACKAGE, read_chatterbot
from tfdist.data.readers.conll import read_conll
from tfdist.data.readers.delimited import read_delimited
from tfdist.data.readers.json_lines import read_json_lines
from tfdist.errors import DataError, did_you_mean
from tfdist.log import LOGGER

EXTENSIONS = {
    "tsv": "tsv",
    "csv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "conll": "conll",
    "bio": "conll",
    "iob": "conll",
    "tfrecord": "tfrecord",
    "tfrecords": "tfrecord",
}
SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
# train.tsv, train-00001-of-00004.tfrecord, or TFDS's train.tfrecord-00001-of-00004
_SPLIT_FILE = re.compile(r"(?P<split>\w+?)(-\d+-of-\d+)?\.(?P<extension>\w+)(-\d+-of-\d+)?")
_SHARD = re.compile(r"-(\d+)-of-(\d+)")

Located = tuple[str, Example]


def load_splits(
    config: DataConfig, task: str, *, needed: Sequence[str] = ("train",)
) -> dict[str, list[Example]]:
    """Reads all examples that `config.path` names.

    Args:
        config: `path` is a file (split by a hash of the text into 80/10/10 percent), a folder with `train`,
            `validation` (or `dev`, `valid`, `val`) and `test` files, `tfds:NAME[:CONFIG]`, or
            `package:chatterbot-corpus`. `format` overrides the extension of the file. For token classification the
            default column names mean `tokens` and `tags`.
        task: `text-classification` gives `TextExample`s, `token-classification` gives `TaggedExample`s.
        needed: Splits that must be there.

    Returns:
        The examples of each split, in the order of the files. Keys are among `train`, `validation`, `test`; no split
        is empty.

    Raises:
        DataError: If something is missing or malformed; the message names the file and, if there is one, the line.
    """
    located = _read(config, task)
    for split, pairs in located.items():
        if not pairs:
            raise DataError(f"{config.path}: the split {split!r} has no example. Fill it or remove it.")
    missing = [split for split in needed if split not in located]
    if missing:
        raise DataError(
            f"{config.path}: no split {missing[0]!r}; found {sorted(located)}. Add a {missing[0]} file."
        )
    _check_labels(located)
    LOGGER.info("%s: %s", config.path, ", ".join(f"{len(pairs)} {split}" for split, pairs in located.items()))
    return {split: [example for _, example in pairs] for split, pairs in located.items()}


def split_of(example: Example) -> str:
    """Returns the split of an example by the hash of its text: train 80, validation 10, test 10 percent.

    The same text is always in the same split, on every machine and in every file.
    """
    text = example.text if isinstance(example, TextExample) else " ".join(example.tokens)
    share = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % 10
    return ["validation", "test"][share - 8] if share >= 8 else "train"


def _read(config: DataConfig, task: str) -> dict[str, list[Located]]:
    if config.path.startswith("tfds:"):
        return _read_tfds(config, task)
    if config.path.startswith("package:"):
        if config.path != f"package:{PACKAGE}":
            raise DataError(f"{config.path}: no such built-in corpus; there is package:{PACKAGE}.")
        if task != "text-classification":
            raise DataError(f"{config.path} has one label for each text; it cannot train {task}.")
        return _split_by_hash(config.path, read_chatterbot())
    path = Path(config.path)
    if not config.path or not path.exists():
        raise DataError(
            f"{config.path or '(no data path)'}: no such file or folder. Give a file, a folder of splits, "
            f"tfds:NAME or package:{PACKAGE} with --data."
        )
    if not path.is_dir():
        return _split_by_hash(config.path, _read_file(path, config, task))
    return {
        split: [pair for file in files for pair in _read_file(file, config, task)]
        for split, files in find_split_files(path).items()
    }


def find_split_files(folder: Path) -> dict[str, list[Path]]:
    """Returns the files of each split in `folder`. A split has one file, or the numbered shards of one set.

    Raises:
        DataError: If there is no split, a split is there twice, or shards are missing.
    """
    found: dict[str, list[Path]] = {}
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for name in names:
        match = _SPLIT_FILE.fullmatch(name)
        if match and match["split"] in SPLITS and match["extension"] in EXTENSIONS:
            found.setdefault(SPLITS[match["split"]], []).append(folder / name)
    if not found:
        raise DataError(
            f"{folder}: no split in this folder; its files are {names[:8]}. "
            "Name the files train, validation and test with an "
            f"extension of {sorted(EXTENSIONS)}, or give one file."
        )
    for split, files in found.items():
        sets = {_SHARD.sub("", path.name) for path in files}
        if len(sets) > 1 or (len(files) > 1 and not all(_SHARD.search(path.name) for path in files)):
            raise DataError(
                f"{folder}: the split {split!r} is there twice: {[p.name for p in files]}. Keep one."
            )
        numbers = [match.groups() for path in files if (match := _SHARD.search(path.name))]
        if numbers and {int(index) for index, _ in numbers} != set(range(int(numbers[0][1]))):
            raise DataError(f"{folder}: shards of {split!r} are missing; found {[p.name for p in files]}.")
    return {split: found[split] for split in ("train", "validation", "test") if split in found}


def _columns(config: DataConfig, task: str) -> tuple[str, str]:
    """Returns the names of input and target; for token classification the defaults mean `tokens` and `tags`."""
    if task == "token-classification":
        defaults = DataConfig()
        return (
            "tokens" if config.text_column == defaults.text_column else config.text_column,
            "tags" if config.label_column == defaults.label_column else config.label_column,
        )
    return config.text_column, config.label_column


def _read_file(path: Path, config: DataConfig, task: str) -> Iterator[Located]:
    extension = _SHARD.sub("", path.name).rpartition(".")[2].lower()
    kind = config.format if config.format != "auto" else EXTENSIONS.get(extension, "")
    inputs, targets = _columns(config, task)
    tagged = task == "token-classification"
    match kind:
        case "tsv" | "csv" if not tagged:
            return read_delimited(path, "\t" if kind == "tsv" else ",", inputs, targets)
        case "conll" if tagged:
            return read_conll(path)
        case "jsonl":
            return read_json_lines(path, task, inputs, targets)
        case "tfrecord":
            # Imported here, so that reading text files loads no TensorFlow.
            from tfdist.data.readers.tfrecord import read_tfrecord

            return read_tfrecord(path, task, inputs, targets)
        case "":
            raise DataError(
                f"{path}: unknown format.{did_you_mean(extension, EXTENSIONS)} Known extensions are "
                f"{sorted(EXTENSIONS)}; for another one, set the format with --set data.format=NAME."
            )
    usable = "conll, jsonl, tfrecord" if tagged else "tsv, csv, jsonl, tfrecord"
    raise DataError(f"{path}: the format {kind} cannot hold examples for {task}; these can: {usable}.")


def _read_tfds(config: DataConfig, task: str) -> dict[str, list[Located]]:
    from tfdist.data.readers.tfds import open_builder, read_tfds

    builder = open_builder(config.path)
    columns = _columns(config, task)
    located = {}
    for name in builder.info.splits:
        if name in SPLITS:
            pairs = list(read_tfds(builder, name, task, *columns))
            if pairs and not any(labels_of(example) for _, example in pairs):
                LOGGER.warning("%s: the split %s is left out, as its labels are hidden", config.path, name)
                continue
            located[SPLITS[name]] = pairs
    return _split_by_hash(config.path, located["train"]) if list(located) == ["train"] else located


def _split_by_hash(path: str, pairs: Iterable[Located]) -> dict[str, list[Located]]:
    splits: dict[str, list[Located]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        splits[split_of(pair[1])].append(pair)
    if not any(splits.values()):
        raise DataError(f"{path}: there is no example in it. Give a file with examples.")
    LOGGER.info("%s: split by a hash of the text into 80/10/10 percent", path)
    # A tiny file can leave a split without examples. That split is left out, as in a folder without its file.
    return {split: pairs for split, pairs in splits.items() if pairs or split == "train"}


def _check_labels(located: dict[str, list[Located]]) -> None:
    if "train" not in located:
        return
    known = {label for _, example in located["train"] for label in labels_of(example)}
    for split, pairs in located.items():
        for where, example in pairs:
            if not labels_of(example):
                raise DataError(f"{where}: no label. Label every example of {split!r}.")
            unseen = next((label for label in labels_of(example) if label not in known), None)
            if unseen is not None:
                raise DataError(
                    f"{where}: the label {unseen!r} of {split!r} is not in 'train': {sorted(known)}."
                    f"{did_you_mean(unseen, known)} Correct it, or add examples of it to 'train'."
                )
