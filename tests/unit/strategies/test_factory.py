"""`create_strategy`: names, options, what is refused, and strategies that live side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist._internals.step.repeated_rows import as_chosen, set_repeated_rows
from tfdist.config.schema import Given
from tfdist.errors import ConfigError, UnsupportedError
from tfdist.log import warn_once
from tfdist.parity.comparison import RELATIVE_TOLERANCE
from tfdist.strategies import factory


def test_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no strategy 'miror'.*Did you mean 'mirrored'"):
        tfdist.create_strategy("miror")


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ConfigError, match="needs the option 'mesh'.*mesh={'batch': 2, 'model': 2}"):
        tfdist.create_strategy("mesh")


def test_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no option 'device'.*'devices'.*Did you mean 'devices'"):
        tfdist.create_strategy("mirrored", device=2)


# Options given as text, of a strategy that was registered.


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(factory, "_registered", {})
    return tfdist.register_strategy


def took(**options: Any) -> dict[str, Any]:
    """The keyword arguments that a registered strategy gets."""
    found: dict[str, Any] = {}

    def build(
        count: int = 1,
        rate: float = 0.5,
        fast: bool = False,
        name_of_it: str | None = None,
        names: int | Sequence[str] = (),
        way: Literal["auto", "ring"] = "auto",
        layout_map: Any = "auto",
        unannotated=3,  # noqa: ANN001
    ) -> tf.distribute.Strategy:
        found.update({name: value for name, value in locals().items() if name in options})
        return tf.distribute.get_strategy()

    tfdist.register_strategy("taking", build)
    tfdist.create_strategy("taking", **options)
    return found


def test_text_is_read_by_the_annotation_of_the_builder(register: Any, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("kernel$: [null, model]\n")
    texts = {
        "count": "2",
        "rate": "1e-2",
        "fast": "yes",
        "name_of_it": "off",
        "names": "a, b",
        "way": "ring",
        "layout_map": str(tmp_path / "rules.yaml"),
        "unannotated": "4",
    }
    assert took(**{option: Given(text, "--flag") for option, text in texts.items()}) == {
        "count": 2,
        "rate": 0.01,
        "fast": True,
        "name_of_it": "off",
        "names": ("a", "b"),
        "way": "ring",
        "layout_map": {"kernel$": [None, "model"]},
        "unannotated": 4,
    }


def test_null_is_the_default_and_what_yaml_nests_stays(register: Any) -> None:
    assert took(count=Given(None, "run.yaml:3"), names=Given(["a"], "run.yaml:4")) == {
        "count": 1,
        "names": ["a"],
    }


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("count", "two", "run.yaml:3: count must be a whole number, got 'two'"),
        ("fast", "maybe", "run.yaml:3: fast must be true or false, got 'maybe'"),
        ("way", "rings", "run.yaml:3: way must be one of auto, ring, got 'rings'. Did you mean 'ring'"),
        ("cuont", "2", "run.yaml:3: the strategy 'taking' has no option 'cuont'.*Did you mean 'count'"),
        ("layout_map", "no.yaml", "no file no.yaml. Correct run.yaml:3"),
    ],
)
def test_text_that_does_not_fit_is_refused_with_its_place(
    register: Any, option: str, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        took(**{option: Given(text, "run.yaml:3")})


def test_a_registered_strategy_is_listed_and_made(register: Any) -> None:
    register("mine", lambda **options: tf.distribute.OneDeviceStrategy(options["place"]))
    assert "mine" in tfdist.list_strategies() and tfdist.list_strategies() == sorted(tfdist.list_strategies())
    assert isinstance(
        tfdist.create_strategy("mine", place=Given("CPU:0", "--strategy-option")),
        tf.distribute.OneDeviceStrategy,
    )
    with pytest.raises(ConfigError, match="Did you mean 'mine'"):
        tfdist.create_strategy("mien")


@pytest.mark.parametrize(
    ("name", "build", "message"),
    [
        ("mirrored", dict, "there is a strategy 'mirrored' already.*another name"),
        ("my-own", dict, "'my-own' cannot be the name.*letters, digits and underscores"),
        (3, dict, "3 cannot be the name"),
        ("mine", "Mirrored", "given 'Mirrored', which cannot be called. Give a class or function"),
    ],
)
def test_what_cannot_be_registered(register: Any, name: Any, build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        register(name, build)
    assert factory._registered == {}


def test_what_is_no_strategy_is_refused(register: Any) -> None:
    register("mine", lambda: {})
    with pytest.raises(ConfigError, match="'mine' returned {}. Have it return a tf.distribute.Strategy"):
        tfdist.create_strategy("mine")


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )


def test_creation_after_tensorflow_runs_is_refused_with_the_cure() -> None:
    done = run_script(
        "import tensorflow as tf, tfdist; tf.constant(1) + 1; tfdist.create_strategy('mirrored', devices=3)"
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "3 logical CPU devices were asked for, but TensorFlow already runs with 1" in last
    assert "before any tensor, layer or dataset is made" in last


def model_in(strategy: tf.distribute.Strategy) -> keras.Model:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.5), "mse")
    return model


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, 3)).astype("float32"), generator.random((count, 2), np.float32)


def trained(strategy: tf.distribute.Strategy) -> list[np.ndarray]:
    model = model_in(strategy)
    model.fit(*rows(19), batch_size=8, shuffle=False, verbose=0)
    return model.get_weights()


def test_two_strategies_in_one_process_train_as_one_device() -> None:
    expected = trained(tfdist.create_strategy("one_device"))
    for devices in (2, 4):
        for found, weight in zip(
            trained(tfdist.create_strategy("mirrored", devices=devices)), expected, strict=True
        ):
            np.testing.assert_allclose(found, weight, atol=RELATIVE_TOLERANCE)


@pytest.fixture(scope="module")
def mirrored() -> tf.distribute.Strategy:
    return tfdist.create_strategy("mirrored", devices=2)


def test_a_model_from_outside_of_the_scope_is_refused(mirrored: Any) -> None:
    model = model_in(tf.distribute.get_strategy())
    with (
        mirrored.scope(),
        pytest.raises(UnsupportedError, match="was made outside of strategy.scope"),
    ):
        model.fit(*rows(8), verbose=0)


def test_an_optimizer_from_outside_of_the_scope_is_refused(mirrored: Any) -> None:
    optimizer = keras.optimizers.Adam(name="adam")
    with mirrored.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(optimizer, "mse")
    message = "the optimizer 'adam' was made outside.*Make it under `with strategy.scope"
    with pytest.raises(UnsupportedError, match=message):
        model.fit(*rows(8), verbose=0)
    with pytest.raises(UnsupportedError, match=message):
        model.compile(optimizer, "mse")
    model.compile("adam", "mse")
    model.fit(*rows(8), verbose=0)


def test_a_training_loop_of_the_users_own_works_as_in_stock(mirrored: Any) -> None:
    with mirrored.scope():
        weight = tf.Variable(1.0)
    dataset = mirrored.experimental_distribute_dataset(tf.data.Dataset.range(8).batch(4))

    @tf.function
    def total(batch: Any) -> tf.Tensor:
        sums = mirrored.run(lambda rows: tf.reduce_sum(tf.cast(rows, tf.float32)) * weight, args=(batch,))
        return mirrored.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    assert [float(total(batch)) for batch in dataset] == [6.0, 22.0]


def test_a_strategy_of_one_process_in_a_cluster_says_that_each_trains_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = {"cluster": {"worker": ["a:1", "b:1", "c:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    warn_once.cache_clear()
    tfdist.create_strategy("one_device")
    assert (
        "TF_CONFIG describes 3 processes, and the strategy 'one_device' trains in this one alone"
        in caplog.text
    )
    caplog.clear()
    warn_once.cache_clear()
    monkeypatch.setattr(factory, "num_processes", lambda: 3)
    tfdist.create_strategy("one_device")
    assert not caplog.text


def test_an_unknown_choice_for_repeated_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="repeated_rows='summ'.*'keep'.*'sum'.*Did you mean 'sum'"):
        tfdist.create_strategy("one_device", repeated_rows="summ")


def test_repeated_rows_may_be_text_from_a_flag() -> None:
    strategy = tfdist.create_strategy("one_device", repeated_rows=Given("sum", "--strategy-option"))
    try:
        optimizer = keras.optimizers.SGD(1.0)
        slices = tf.IndexedSlices(tf.ones([2, 1]), tf.constant([1, 1]), tf.constant([3, 1]))
        assert as_chosen(optimizer, [slices, None])[0].numpy().tolist() == [[0], [2], [0]]
    finally:
        set_repeated_rows(strategy, "keep")
