"""Layout rules by themselves: which axis for which dimension, and what is refused."""

from __future__ import annotations

import pytest

from tfdist.errors import ConfigError
from tfdist.sharding.placement import local_shape, with_axis
from tfdist.sharding.rules import LayoutRules

MESH = {"batch": 2, "model": 4}


def test_a_rule_gives_its_axes_and_the_rest_stays_whole() -> None:
    rules = LayoutRules({r"up/kernel$": (None, "model")}, MESH)
    assert rules.axes_of("model/up/kernel", (3, 8)) == (None, "model")
    assert rules.axes_of("model/up/bias", (8,)) == (None,)
    assert rules.reason_whole("model/up/bias", (8,)) == "no rule"
    assert rules.reason_whole("model/up/kernel", (3, 8)) == ""
    rules.check_all_used(["model/up/kernel"])


def test_two_models_of_one_strategy_each_use_the_rules() -> None:
    rules = LayoutRules({r"up/kernel$": (None, "model")}, MESH)
    rules.axes_of("teacher/up/kernel", (3, 8))
    with pytest.raises(ConfigError, match="matches no variable"):
        rules.check_all_used(["student/down/kernel"])


@pytest.mark.parametrize(
    ("rules", "shape", "message"),
    [
        (
            {"kernel": (None, "model"), "up": ("model", None)},
            (8, 8),
            "matched by two rules, 'kernel' and 'up'",
        ),
        ({"kernel": ("model",)}, (8, 8), r"has 1 axes \('model',\), and m/up/kernel has the shape \(8, 8\)"),
        ({"kernel": (None, "model")}, (8, 6), "axis 'model' of 4 devices, which does not divide 6"),
    ],
)
def test_a_rule_that_does_not_fit_a_variable_is_refused(rules, shape, message) -> None:
    with pytest.raises(ConfigError, match=message):
        LayoutRules(rules, MESH).axes_of("m/up/kernel", shape)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"kernel": (None, "modle")}, "names the axis 'modle'; the mesh has"),
        ({"kernel": ("model", "model")}, "uses one axis for two dimensions"),
        ({"kernel(": (None, "model")}, "is no regular expression"),
        ("automatic", "layout_map='automatic' is not possible"),
        (5, "must map regular expressions"),
    ],
)
def test_malformed_rules_are_refused(rules, message) -> None:
    with pytest.raises(ConfigError, match=message):
        LayoutRules(rules, MESH)


def test_a_rule_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="'kernle' matches no variable.*called for example m/up/kernel"):
        LayoutRules({"kernle": (None, "model")}, MESH).check_all_used(["m/up/kernel"])


@pytest.mark.parametrize(
    ("path", "shape", "axes"),
    [
        ("bert/encoder_0/attention/query/kernel", (16, 4, 4), (None, "model", None)),
        ("bert/encoder_0/attention/query/bias", (4, 4), ("model", None)),
        ("bert/encoder_0/attention/output/kernel", (4, 4, 16), ("model", None, None)),
        ("bert/encoder_0/intermediate/kernel", (16, 64), (None, "model")),
        ("bert/encoder_0/output/kernel", (64, 16), ("model", None)),
        ("bert/embeddings/token_embeddings", (40, 16), ("model", None)),
        (
            "hub/transformer_layer_0/self_attention_layer/attention_output/kernel",
            (4, 4, 16),
            ("model", None, None),
        ),
        ("hub/transformer_layer_0/feedforward_intermediate_dense/kernel", (16, 64), (None, "model")),
        ("hub/transformer_layer_0/feedforward_output_dense/kernel", (64, 16), ("model", None)),
        ("hub/token_embedding/embeddings", (40, 16), ("model", None)),
        # Three heads over four devices.
        ("bert/encoder_0/attention/query/kernel", (16, 3, 4), (None, None, None)),
        ("bert/pooler/kernel", (16, 16), (None, None)),
        ("mlp/hidden/kernel", (784, 256), (None, "model")),
        ("mlp/logits/kernel", (256, 10), ("model", None)),
        ("embedding/embeddings", (400, 8), ("model", None)),
    ],
)
def test_the_automatic_split(path, shape, axes) -> None:
    assert LayoutRules("auto", MESH).axes_of(path, shape) == axes


def test_an_axis_is_added_where_it_divides() -> None:
    assert with_axis((None, "model"), (6, 8), "batch", MESH) == ("batch", "model")
    assert with_axis((None, None), (6, 8), "batch", MESH) == (None, "batch")
    assert with_axis((None,), (7,), "batch", MESH) == (None,)
    assert local_shape(("batch", "model"), (6, 8), MESH) == (3, 2)
