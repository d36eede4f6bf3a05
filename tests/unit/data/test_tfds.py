"""TFDS names, on small builders that are made here and prepared by TFDS's own code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tfdist.config.schema import DataConfig
from tfdist.data.examples import TaggedExample, TextExample
from tfdist.data.sources import load_splits
from tfdist.errors import DataError

tfds = pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")

TEXT, TOKENS = "text-classification", "token-classification"


class TfdistTinyTexts(tfds.core.GeneratorBasedBuilder):
    """Texts with named classes, in two configurations; the labels of the test split are hidden."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("english", "german")]

    def _info(self) -> Any:
        names = tfds.features.ClassLabel(names=["neg", "pos"])
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": names})
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._rows(6), "validation": self._rows(2), "test": self._rows(2, hidden=True)}

    def _generate_examples(self) -> None: ...

    def _rows(self, count: int, hidden: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(count):
            yield i, {"text": f"{self.builder_config.name} naïve {i}", "label": -1 if hidden else i % 2}


class TfdistTinyTokens(tfds.core.GeneratorBasedBuilder):
    """Tagged sentences, in a training split alone."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        tags = tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-per"]))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {"tokens": tfds.features.Sequence(tfds.features.Text()), "ner": tags}
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(40):
            yield i, {"tokens": ["Ann", f"ran{i}"], "ner": [1, 0]}


class TfdistBroken(TfdistTinyTokens):
    """Cannot be prepared."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        raise OSError("no route to host")


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))


def test_texts_with_a_configuration(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tfdist"):
        splits = load_splits(DataConfig(path="tfds:tfdist_tiny_texts:german"), TEXT)
    assert sorted(splits) == ["train", "validation"]
    assert sorted(e.text for e in splits["train"]) == [f"german naïve {i}" for i in range(6)]
    assert all(e == TextExample(e.text, ["neg", "pos"][int(e.text[-1]) % 2]) for e in splits["train"])
    assert "the split test is left out, as its labels are hidden" in caplog.text
    assert load_splits(DataConfig(path="tfds:tfdist_tiny_texts:german"), TEXT) == splits


def test_tokens_in_one_split_are_split_by_hash() -> None:
    splits = load_splits(DataConfig(path="tfds:tfdist_tiny_tokens", label_column="ner"), TOKENS)
    assert sum(map(len, splits.values())) == 40 and len(splits["train"]) > 25
    assert splits["train"][0].tags == ("B-per", "O") and isinstance(splits["train"][0], TaggedExample)


@pytest.mark.parametrize(
    "path, parts",
    [
        ("tfds:tfdist_absent", ["tfds:tfdist_absent", "no such dataset"]),
        ("tfds:tfdist_tiny_texts:french", ["french", "no such dataset or configuration"]),
        ("tfds:tfdist_broken", ["could not prepare it", "OSError: no route to host", "tfds build"]),
        ("tfds:tfdist_tiny_tokens", ["'text' is missing", "['ner', 'tokens']", "--set data.text_column"]),
    ],
)
def test_bad_names(path: str, parts: list[str]) -> None:
    with pytest.raises(DataError) as error:
        load_splits(DataConfig(path=path), TEXT)
    for part in parts:
        assert part in str(error.value)


def test_without_tfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"pip install 'tfdist\[tfds\]'"):
        load_splits(DataConfig(path="tfds:imdb_reviews"), TEXT)
