from __future__ import annotations

import json

import pytest

from tfdist.errors import ModelError
from tfdist.models import BertConfig


def test_defaults_are_bert_base_and_unrelated_keys_are_left_out():
    assert BertConfig.from_dict({"architectures": ["BertModel"], "use_cache": True}) == BertConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "gelu_nwe"}, r"Unknown hidden_act. Given: 'gelu_nwe'.*Did you mean 'gelu_new'"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'. Allowed: 'absolute'",
        ),
        ({"model_type": "roberta"}, "model_type is 'roberta'. Allowed: 'bert'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_size": 100}, "multiple of num_attention_heads. Given: 100 and 12"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1. Given: 0"),
        ({"vocab_size": "many"}, "vocab_size must be of type int. Given: 'many'"),
        ({"vocab_size": True}, "vocab_size must be of type int. Given: True"),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob must be in \[0, 1\). Given: 1.0"),
    ],
)
def test_refuses_what_it_cannot_build(values, message):
    with pytest.raises(ModelError, match=message):
        BertConfig.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No configuration at .*config.json"),
        ("{", "config.json is not readable JSON"),
        ("[]", "must hold a JSON object. Given: list"),
        (json.dumps({"hidden_act": "swish"}), "config.json: Unknown hidden_act"),
    ],
)
def test_bad_file(tmp_path, text, message):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelError, match=message):
        BertConfig.from_file(path)
