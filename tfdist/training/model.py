"""Model and tokenizer of a run, by the model's name."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
from tokenizers import BertWordPieceTokenizer

from tfdist.config.schema import ModelConfig
from tfdist.data.examples import Example, TextExample
from tfdist.errors import UnsupportedError
from tfdist.models.bert import build_bert
from tfdist.models.bert_config import BertConfig
from tfdist.models.bert_weights import load_bert
from tfdist.models.bigru import build_bigru
from tfdist.models.pretrained import resolve_model_folder
from tfdist.models.tokenizer import BertTokenizer, WordTokenizer
from tfdist.tasks.base import Task, Tokenizer

DEFAULT_DROPOUT = 0.1
SCRATCH_VOCABULARY = 8000


def create_tokenizer(config: ModelConfig, examples: Sequence[Example]) -> Tokenizer:
    """Returns the pretrained model's tokenizer, or one whose vocabulary comes from the training `examples`."""
    texts = [e.text if isinstance(e, TextExample) else " ".join(e.tokens) for e in examples]
    if config.name == "bigru":
        return WordTokenizer.train(texts)
    if config.name == "bert":
        return _train_word_pieces(texts)
    return BertTokenizer.load(resolve_model_folder(config.name))


def load_tokenizer(config: ModelConfig, folder: Path) -> Tokenizer:
    """Returns the tokenizer that a run saved in `folder`."""
    return (WordTokenizer if config.name == "bigru" else BertTokenizer).load(folder)


def create_model(config: ModelConfig, task: Task, tokenizer: Tokenizer, num_labels: int) -> keras.Model:
    """Builds the model `config.name` with the head of `task`, which gives float32 logits.

    `bert` is BERT-Tiny of "Well-Read Students Learn Better" (Turc et al., 2019), 2 layers of width 128, with
    fresh weights.

    Raises:
        UnsupportedError: The model has no head for the task.
    """
    dropout = DEFAULT_DROPOUT if config.dropout is None else config.dropout
    if config.name == "bigru":
        if task.name != "text-classification":
            raise UnsupportedError(
                f"The model bigru cannot do {task.name}, only text-classification. "
                "Choose --model minilm or bert."
            )
        body = build_bigru(vocab_size=tokenizer.vocab_size, num_labels=num_labels, dropout=dropout)
        # For two labels the builder has one probability. One logit for each label gives the same function.
        logits = keras.layers.Dense(num_labels, dtype="float32", name="logits")
        return keras.Model(body.input, logits(body.get_layer("dropout").output), name="bigru")
    if config.name == "bert":
        backbone = build_bert(
            BertConfig(
                vocab_size=tokenizer.vocab_size,
                hidden_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=512,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
            )
        )
    else:
        backbone = load_bert(resolve_model_folder(config.name), dropout=config.dropout)
    return task.add_head(backbone, num_labels, dropout)


def _train_word_pieces(texts: Sequence[str]) -> BertTokenizer:
    """Learns word pieces; every process learns the same ones from the same texts.

    The trainer numbers the pieces inside of a word in the order of its hash map, and breaks ties between merges by
    these numbers, so that two processes would learn two vocabularies. Here the pieces are given to it first, in order,
    and have the same numbers everywhere.
    """
    trainer = BertWordPieceTokenizer()
    characters = {c for text in texts for c in trainer.normalizer.normalize_str(text) if not c.isspace()}
    trainer.train_from_iterator(
        iter(texts),
        vocab_size=SCRATCH_VOCABULARY,
        min_frequency=1,
        limit_alphabet=len(characters),
        special_tokens=[*BertTokenizer.special_tokens, *(f"##{c}" for c in sorted(characters))],
        show_progress=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_model(folder)
        return BertTokenizer.load(folder)
