from __future__ import annotations

import re

import pytest
from hf_bert import CONFIG

from tfdist.models import BertConfig, bert, bert_classifier, bigru, build_bert, build_bigru, build_mlp, mlp

BUILDERS = {
    "mlp": (mlp.SHARDING_RULES, build_mlp),
    "bigru": (bigru.SHARDING_RULES, lambda: build_bigru(vocab_size=8, embedding_dim=4, units=2)),
    "bert": (
        bert.SHARDING_RULES,
        lambda: bert_classifier(build_bert(BertConfig.from_dict(CONFIG)), num_labels=3),
    ),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_each_rule_matches_and_no_variable_matches_two(name):
    rules, build = BUILDERS[name]
    variables = build().trainable_variables
    unused = {pattern for pattern, _ in rules}
    for variable in variables:
        matches = [(pattern, axes) for pattern, axes in rules if re.search(pattern, variable.path)]
        assert len(matches) <= 1, variable.path
        for pattern, axes in matches:
            unused.discard(pattern)
            assert len(axes) == len(variable.shape), variable.path
            assert set(axes) <= {"batch", "model", None}
            assert axes.count("model") == 1
    assert not unused
    assert len({variable.path for variable in variables}) == len(variables)


def test_bert_splits_by_heads_and_columns_then_rows():
    model = build_bert(BertConfig.from_dict(CONFIG))
    split = {
        v.path: v.shape[axes.index("model")]
        for v in model.trainable_variables
        for pattern, axes in bert.SHARDING_RULES
        if re.search(pattern, v.path)
    }
    heads, wide = CONFIG["num_attention_heads"], CONFIG["intermediate_size"]
    assert split["embeddings/token_embeddings"] == CONFIG["vocab_size"]
    for index in range(CONFIG["num_hidden_layers"]):
        for part in ("query/kernel", "query/bias", "key/kernel", "value/bias", "output/kernel"):
            assert split.pop(f"encoder_{index}/attention/{part}") == heads
        for part in ("intermediate/kernel", "intermediate/bias", "output/kernel"):
            assert split.pop(f"encoder_{index}/{part}") == wide
        # What is added after the all-reduce must not be split.
        assert f"encoder_{index}/attention/output/bias" not in split
        assert f"encoder_{index}/output/bias" not in split
