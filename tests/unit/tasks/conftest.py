import pytest

from tfdist.models.tokenizer import BertTokenizer

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] paris is big un ##believ ##able in . ##s".split()  # noqa: SIM905


@pytest.fixture
def tokenizer(tmp_path) -> BertTokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return BertTokenizer.load(tmp_path)
