"""A data service: rows, order and results are those without it; what cannot be served is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.cli.main import main
from tfdist.data import distribute, make_dataset, rows_dataset
from tfdist.data.service.in_order import Limits
from tfdist.errors import DataError, UnsupportedError
from tfdist.models.tokenizer import WordTokenizer
from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference

ROWS = 37
X = np.random.default_rng(0).normal(size=(ROWS, 6)).astype(np.float32)
Y = X[:, :1] * 2 + 1


SERVERS = """
import time
from tensorflow.data.experimental import service

empty, used = (service.DispatchServer(service.DispatcherConfig(port=0)) for _ in range(2))
address = used.target.split("://")[1]
config = service.WorkerConfig(dispatcher_address=address, heartbeat_interval_ms=200)
workers = [service.WorkerServer(config) for _ in range(2)]
print(address, empty.target.split("://")[1], flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """A service of two data workers, and one that has none."""
    command = [sys.executable, "-c", SERVERS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process.stdout.readline().split()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def service(addresses: list[str]) -> str:
    return addresses[0]


def load(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.gather(tf.constant(X), rows), tf.gather(tf.constant(Y), rows)


def rows(**options: Any) -> tf.data.Dataset:
    given = {"global_batch_size": 8, "shuffle": True, "seed": 2, "in_graph": True} | options
    return rows_dataset(load, ROWS, **given)


def texts(shuffle: bool = True) -> tf.data.Dataset:
    generator = np.random.default_rng(1)
    ids = [generator.integers(1, 9, generator.integers(1, 12)).astype(np.int32) for _ in range(ROWS)]
    return make_dataset(
        [{"token_ids": row} for row in ids],
        [np.where(row > 4, 1, -1).astype(np.int32) for row in ids],
        global_batch_size=5,
        max_length=12,
        pad_values={"token_ids": 0},
        shuffle=shuffle,
        bucket_step=4,
    )


@pytest.mark.parametrize("make", [rows, texts], ids=["rows", "texts"])
def test_epochs_are_those_without_a_service(service: str, make: Any) -> None:
    served, alone = distribute(make(), service), make()
    assert served.cardinality() == alone.cardinality()
    assert served.element_spec == alone.element_spec
    for _ in range(2):
        found, expected = (list(dataset.as_numpy_iterator()) for dataset in (served, alone))
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            for one, other in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)


def fitted(strategy: tf.distribute.Strategy, training: Any, validation: Any, **compiled: Any) -> list[Any]:
    keras.utils.set_random_seed(4)
    with strategy.scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(1)])
        model.compile("adam", "mse", **compiled)
    history = model.fit(training, epochs=2, validation_data=validation, verbose=0).history
    return [*model.get_weights(), *history.values(), model.predict(validation, verbose=0)]


@pytest.mark.parametrize(
    ("name", "options", "feeds"),
    [
        ("mirrored", {"devices": 2}, False),
        ("mirrored", {"devices": 3}, True),
        ("mesh", {"mesh": "batch=2"}, False),
    ],
)
def test_results_are_those_without_a_service(
    service: str, name: str, options: Any, feeds: bool, monkeypatch: Any
) -> None:
    strategy = tfdist.create_strategy(name, **options)
    if feeds:  # as on GPUs, to which each piece is copied ahead
        monkeypatch.setattr(type(strategy), "feeds_devices", True)
    compiled = {"steps_per_execution": 3 if name == "mirrored" else 1}
    alone = fitted(strategy, rows(), rows(shuffle=False), **compiled)
    served = fitted(
        strategy, distribute(rows(), service), distribute(rows(shuffle=False), service), **compiled
    )
    # The batches are equal bit for bit, as tested above. Two trainings on them are not always: the order of a sum
    # depends on how its array lies in memory.
    for one, other in zip(served, alone, strict=True):
        assert relative_difference(np.asarray(one), np.asarray(other)) <= RELATIVE_TOLERANCE


def test_python_code_is_refused(service: str) -> None:
    with pytest.raises(UnsupportedError, match="loaded by Python code.*in_graph=True"):
        distribute(rows_dataset(lambda rows: X[rows], ROWS, global_batch_size=8), service)


def test_other_datasets_are_refused(service: str) -> None:
    for dataset in (tf.data.Dataset.range(9).batch(2), rows().map(lambda x, y: (x, y))):
        with pytest.raises(UnsupportedError, match="known by the numbers of their rows.*rows_dataset"):
            distribute(dataset, service)


def test_batches_that_do_not_come_are_prepared_here(
    addresses: list[str], monkeypatch: Any, caplog: Any
) -> None:
    monkeypatch.setattr(Limits, "patience_s", 0.1)
    found = list(distribute(rows(), addresses[1]).as_numpy_iterator())  # this service has no data worker
    for ours, theirs in zip(found, rows().as_numpy_iterator(), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    assert (
        "5 batches of epoch 0 (0, 1, 2, 3, 4) were lost or late, and were prepared by this process"
        in caplog.text
    )


def test_too_much_to_send_is_refused(service: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("tfdist.data.service.distribute.MAX_BYTES", 100)
    with pytest.raises(DataError, match="takes [0-9,]+ bytes.*100 are allowed.*read files by their names"):
        distribute(texts(), service)


def test_error_in_a_row_is_told(service: str) -> None:
    def checked(numbers: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_less(numbers, np.int64(20), "row 20 is bad")]):
            return tf.identity(numbers)

    dataset = distribute(rows_dataset(checked, ROWS, global_batch_size=8, in_graph=True), service)
    with pytest.raises(tf.errors.OpError, match="failed to prepare a batch.*row 20 is bad"):
        list(dataset)


def test_service_that_is_not_there_is_an_error(service: str) -> None:
    with pytest.raises(
        tf.errors.OpError, match="no dispatcher of a data service answers at 127.0.0.1:1 within"
    ):
        list(distribute(rows(), "127.0.0.1:1", timeout_s=0.2))
    with pytest.raises(DataError, match="timeout_s is 0"):
        distribute(rows(), service, timeout_s=0)


def test_no_data_worker_is_an_error(addresses: list[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("TFDIST_DATA_SERVICE", addresses[1])
    monkeypatch.setenv("TFDIST_DATA_WORKERS", "127.0.0.1:1")
    with pytest.raises(
        tf.errors.OpError, match=r"no batch for \d+ s. No answer from data worker 0 \(127.0.0.1:1\)"
    ):
        list(distribute(rows(), timeout_s=0.3))


def test_train_from_the_cache_by_a_service(service: str, tmp_path: Path, monkeypatch: Any) -> None:
    words = ["good", "bad", "the", "film", "was"]
    generator = np.random.default_rng(3)
    lines = [" ".join(generator.choice(words, generator.integers(1, 20))) for _ in range(60)]
    data = tmp_path / "data.tsv"
    data.write_text(
        "text\tlabel\n" + "".join(f"{line}\t{line[:1] in 'gt'}\n" for line in dict.fromkeys(lines))
    )
    histories = []
    for name, more in {"alone": [], "served": ["--data-service", service]}.items():
        output = str(tmp_path / name)
        flags = ["--data", str(data), "--model", "bigru", "--epochs", "2", "--global-batch-size", "8"]
        flags += ["--strategy", "one_device", "--cache-dir", str(tmp_path / "cache"), "--output", output]
        assert main(["train", *flags, *more]) == 0
        found = json.loads(Path(output, "metrics.json").read_text())
        del found["history"]["examples/s"]
        histories.append(found)
        monkeypatch.setattr(
            WordTokenizer, "encode_texts", None
        )  # the second run finds all texts in the cache
    assert histories[0] == histories[1]
