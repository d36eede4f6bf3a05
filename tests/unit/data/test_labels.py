from __future__ import annotations

import numpy as np
import pytest

from tfdist.data import TaggedExample, TextExample, encode, label_names
from tfdist.errors import DataError


def test_names_are_sorted_and_numbers_are_their_places() -> None:
    examples = [TextExample("a", "pos"), TextExample("b", "neg"), TextExample("c", "pos")]
    names = label_names({"train": examples, "test": [TextExample("d", "fair"), TextExample("e")]})
    assert names == ["fair", "neg", "pos"]
    numbers = np.concatenate(encode(examples, names))
    assert numbers.dtype == np.int32 and numbers.tolist() == [2, 1, 2]


def test_tags() -> None:
    sentence = TaggedExample(("Ann", "ran"), ("B-per", "O"))
    assert label_names({"train": [sentence]}) == ["B-per", "O"]
    assert [row.tolist() for row in encode([sentence, sentence], ["O", "B-per"])] == [[1, 0], [1, 0]]


@pytest.mark.parametrize(
    "example, parts",
    [
        (TextExample("a", "post"), ["Example 0", "'post'", "['neg', 'pos']", "Did you mean 'pos'?"]),
        (TextExample("a"), ["no label"]),
        (TaggedExample(("a",)), ["no label"]),
    ],
)
def test_what_cannot_be_encoded(example: TextExample, parts: list[str]) -> None:
    with pytest.raises(DataError) as error:
        encode([example], ["neg", "pos"])
    for part in parts:
        assert part in str(error.value)
