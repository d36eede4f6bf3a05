"""Tokenizers over the Hugging Face `tokenizers` library, which encodes batches on all cores.

After a fork the library encodes on one core, and prints a line about it. TOKENIZERS_PARALLELISM=false silences it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from tfdist.errors import ModelError
from tfdist.files import write_text
from tfdist.models.extras import require


class EncodedWords(NamedTuple):
    """One encoded list of words.

    Attributes:
        ids: int32 (L,).
        word_index: int32 (L,), for each piece the index of its word, -1 for special tokens. At the first piece of a
            word the index differs from the one before. A word that was cut off, or that has only control characters,
            has no piece.
    """

    ids: np.ndarray
    word_index: np.ndarray


class _Tokenizer:
    """What both tokenizers share: encoding, special ids, `tokenizer.json`."""

    special_tokens: ClassVar[tuple[str, ...]]

    def __init__(self, tokenizer: Any, source: str = "tokenizer") -> None:
        # The caller chooses the lengths. Those with which the file was saved do not count.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        missing = [token for token in self.special_tokens if tokenizer.token_to_id(token) is None]
        if missing:
            raise ModelError(f"{source} lacks the special tokens {', '.join(missing)}.")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads `tokenizer.json` of a folder.

        Raises:
            ModelError: the file is missing, malformed, or lacks a special token.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"No tokenizer at {path}.")
        try:
            tokenizer = require("tokenizers", extra="text").Tokenizer.from_file(str(path))
        except ModelError:
            raise
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{path} is no tokenizer of the tokenizers library: {error}.") from error
        return cls(tokenizer, str(path))

    def save(self, folder: str | Path) -> Path:
        """Writes `tokenizer.json` into `folder`, whole or not at all, and returns its path."""
        path = Path(folder) / "tokenizer.json"
        write_text(path, json.dumps(self._described(), ensure_ascii=False))
        return path

    def description(self) -> str:
        """Returns vocabulary and options as JSON, without the lengths, which each call chooses."""
        return json.dumps(self._described(), sort_keys=True)

    def _described(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return described | {"truncation": None, "padding": None}

    @property
    def vocab_size(self) -> int:
        """Number of ids: one more than the largest."""
        return int(max(self._tokenizer.get_vocab(with_added_tokens=True).values())) + 1

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        return int(self._tokenizer.token_to_id("[PAD]"))

    @property
    def unk_id(self) -> int:
        """The id of words that the vocabulary cannot spell."""
        return int(self._tokenizer.token_to_id("[UNK]"))

    def encode_texts(self, texts: Sequence[str], max_length: int | None = None) -> list[np.ndarray]:
        """Returns the ids of each text, int32 of shape (L,), with special tokens.

        Args:
            texts: The texts.
            max_length: The largest L; longer texts lose their end. None for no limit.

        Raises:
            ModelError: `max_length` leaves no room for a token.
        """
        return [
            np.asarray(encoding.ids, np.int32) for encoding in self._encode(texts, max_length, words=False)
        ]

    def encode_words(
        self, sentences: Sequence[Sequence[str]], max_length: int | None = None
    ) -> list[EncodedWords]:
        """Encodes sentences that are split into words, and tells from which word each piece comes.

        Raises:
            ModelError: `max_length` leaves no room for a token.
        """
        return [
            EncodedWords(
                np.asarray(encoding.ids, np.int32),
                np.asarray([-1 if index is None else index for index in encoding.word_ids], np.int32),
            )
            for encoding in self._encode([list(words) for words in sentences], max_length, words=True)
        ]

    def _encode(self, inputs: Sequence[Any], max_length: int | None, *, words: bool) -> list[Any]:
        if max_length is None:
            self._tokenizer.no_truncation()
        else:
            num_special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
            if max_length <= num_special:
                raise ModelError(
                    f"max_length must be more than the {num_special} special tokens. Given: {max_length}."
                )
            self._tokenizer.enable_truncation(max_length)
        # Offsets in the text are not needed. For words, the index of each piece's word is.
        encode = self._tokenizer.encode_batch if words else self._tokenizer.encode_batch_fast
        return list(encode(inputs, is_pretokenized=words))


class BertTokenizer(_Tokenizer):
    """Word pieces of BERT: `[CLS] ... [SEP]`."""

    special_tokens = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads `tokenizer.json` of a folder, or if that is absent, `vocab.txt` and `tokenizer_config.json`.

        Raises:
            ModelError: all are absent, or one is malformed or lacks a special token.
        """
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            return super().load(folder)
        if not (folder / "vocab.txt").is_file():
            raise ModelError(f"No tokenizer in {folder}. It must hold tokenizer.json or vocab.txt.")
        return cls(_word_pieces(folder), str(folder / "vocab.txt"))

    @property
    def cls_id(self) -> int:
        """The id with which a text begins."""
        return int(self._tokenizer.token_to_id("[CLS]"))

    @property
    def sep_id(self) -> int:
        """The id with which a text ends."""
        return int(self._tokenizer.token_to_id("[SEP]"))


class WordTokenizer(_Tokenizer):
    """Lower-cased words and punctuation marks; id 0 is padding, id 1 any unknown word."""

    special_tokens = ("[PAD]", "[UNK]")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 30000) -> Self:
        """Makes a vocabulary of the most frequent words of `texts`; `vocab_size` includes the two special tokens."""
        tokenizers = require("tokenizers", extra="text")
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({}, unk_token="[UNK]"))
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        trainer = tokenizers.trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=list(cls.special_tokens), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)


def _word_pieces(folder: Path) -> Any:
    """Returns the tokenizer that `vocab.txt` and `tokenizer_config.json` describe."""
    tokenizers = require("tokenizers", extra="text")
    path, settings_path = folder / "vocab.txt", folder / "tokenizer_config.json"
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        settings = json.loads(settings_path.read_text(encoding="utf-8")) if settings_path.is_file() else {}
        settings = dict(settings)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"The tokenizer files of {folder} cannot be read: {error}.") from error
    vocab = {token.removesuffix("\r"): index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise ModelError(
            f"{path} lists {len(tokens) - len(vocab)} tokens twice. Each line must be another token."
        )
    missing = [token for token in BertTokenizer.special_tokens if token not in vocab]
    if missing:
        raise ModelError(f"{path} lacks the special tokens {', '.join(missing)}.")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(
        ("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"])
    )
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.add_special_tokens([t for t in (*BertTokenizer.special_tokens, "[MASK]") if t in vocab])
    return tokenizer
