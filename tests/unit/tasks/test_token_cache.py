"""The cache gives back what was stored, knows what it was made of, and no state of the disk changes a run."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfdist import files
from tfdist.data.examples import TaggedExample, TextExample
from tfdist.models.tokenizer import WordTokenizer
from tfdist.tasks.base import Encoded
from tfdist.tasks.registry import create_task
from tfdist.tasks.token_cache import TokenCache, key_of

TEXTS = [TextExample("one good film", "a"), TextExample("bad", "b"), TextExample("", "a")]
SENTENCES = [TaggedExample(("one", "good", "film"), ("O", "B", "B")), TaggedExample(("bad",), ("O",))]
CASES = {"text-classification": (TEXTS, ["a", "b"]), "token-classification": (SENTENCES, ["B", "O"])}


def tokenizer(words: str = "one good bad film") -> WordTokenizer:
    return WordTokenizer.train([words])


def encode(name: str, with_labels: bool = True) -> Encoded:
    examples, names = CASES[name]
    return create_task(name).encode(examples, names if with_labels else None, tokenizer(), 2)


def assert_same(found: Any, expected: Encoded) -> None:
    for part in ("ids", "labels", "positions"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert type(ours) is type(theirs), part
        for one, other in zip(
            ours if ours is not None else (), theirs if theirs is not None else (), strict=True
        ):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_what_is_stored_is_found(tmp_path: Path, name: str, with_labels: bool) -> None:
    cache, encoded = TokenCache(tmp_path / "new"), encode(name, with_labels)
    assert cache.load("key") is None
    cache.store("key", encoded)
    assert_same(cache.load("key"), encoded)
    assert cache.load("other") is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["key.npz"]


def test_key_follows_from_all_that_the_tokens_follow_from() -> None:
    task, names = create_task("text-classification"), ["a", "b"]
    used = tokenizer()
    used.encode_texts(["good"], 2)  # a length that was used before is none of the tokenizer's options
    keys = [
        key_of(task, TEXTS, names, tokenizer(), 8),
        key_of(task, TEXTS[::-1], names, tokenizer(), 8),
        key_of(task, [TextExample("one good  film", "a"), *TEXTS[1:]], names, tokenizer(), 8),
        key_of(task, [TextExample("one good film", "b"), *TEXTS[1:]], names, tokenizer(), 8),
        key_of(task, TEXTS, ["b", "a"], tokenizer(), 8),
        key_of(task, TEXTS, None, tokenizer(), 8),
        key_of(task, TEXTS, names, tokenizer("good one bad film film"), 8),
        key_of(task, TEXTS, names, tokenizer(), 9),
        key_of(create_task("token-classification"), TEXTS, names, tokenizer(), 8),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(task, TEXTS, names, used, 8) == keys[0]


@pytest.mark.parametrize("place", [0, 0.3, 0.6, 0.9, "cut", "empty", "text"])
def test_damaged_file_is_told_and_made_anew(tmp_path: Path, caplog: Any, place: Any) -> None:
    cache, encoded = TokenCache(tmp_path), encode("token-classification")
    cache.store("key", encoded)
    path = tmp_path / "key.npz"
    data = bytearray(path.read_bytes())
    if isinstance(place, str):
        data = {"cut": data[: len(data) // 2], "empty": bytearray(), "text": bytearray(b"no numbers")}[place]
    else:
        at = int(place * len(data))
        data[at : at + 40] = bytes(255 - byte for byte in data[at : at + 40])
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "tfdist"):
        found = cache.load("key")
    if found is not None:  # the bytes that were changed hold nothing of the arrays
        assert_same(found, encoded)
    else:
        assert f"{path} cannot be used, and are made anew" in caplog.text
        cache.store("key", encoded)
        assert_same(cache.load("key"), encoded)


def test_other_content_under_the_same_name_is_found_out(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    cache.store("key", encode("text-classification"))
    with np.load(tmp_path / "key.npz") as file:
        arrays = dict(file)
    arrays["ids/values"][0] += 1
    np.savez(tmp_path / "key.npz", **arrays)  # a whole file, with checksums of its own
    assert cache.load("key") is None


def test_full_disk_only_warns(tmp_path: Path, caplog: Any, monkeypatch: Any) -> None:
    def full(path: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_sync", full)
    with caplog.at_level(logging.WARNING, "tfdist"):
        TokenCache(tmp_path).store("key", encode("text-classification"))
    assert "not kept for the next run" in caplog.text and "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())


def test_file_in_place_of_the_folder_only_warns(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").touch()
    cache = TokenCache(tmp_path / "file")
    with caplog.at_level(logging.WARNING, "tfdist"):
        cache.store("key", encode("text-classification"))
        assert cache.load("key") is None
    assert "not kept for the next run" in caplog.text


def test_oldest_files_make_room(tmp_path: Path) -> None:
    encoded = encode("text-classification")
    TokenCache(tmp_path).store("size", encoded)
    size = (tmp_path / "size.npz").stat().st_size
    (tmp_path / "size.npz").unlink()
    cache = TokenCache(tmp_path, limit_bytes=2 * size)
    for age, key in ((30, "first"), (20, "second")):
        cache.store(key, encoded)
        os.utime(tmp_path / f"{key}.npz", times=(1e9 - age, 1e9 - age))
    cache.load("first")  # it was used last
    cache.store("third", encoded)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.npz", "third.npz"]


def test_where_it_lies(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert TokenCache.of("none", {}).folder is None
    assert TokenCache.of("auto", {"TFDIST_CACHE": "none"}).folder is None
    assert TokenCache.of(str(tmp_path), {"TFDIST_CACHE": "none"}).folder == tmp_path / "tokens"
    assert TokenCache.of("auto", {"TFDIST_CACHE": str(tmp_path)}).folder == tmp_path / "tokens"
    xdg = {**home, "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    assert TokenCache.of("auto", xdg).folder == tmp_path / "xdg" / "tfdist" / "tokens"
    assert TokenCache.of("auto", {}).folder == Path.home() / ".cache" / "tfdist" / "tokens"
