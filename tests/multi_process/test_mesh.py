"""One mesh over two processes of two devices: weights, files and predictions are those of one device."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tfdist.numerics import RELATIVE_TOLERANCE
from tfdist.parity.processes import ProcessGroup, worker_environments

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.busy(2), pytest.mark.timeout(240)]

LIMIT_S = 120

SCRIPT = """
import pathlib, sys

import tfdist

here, name = pathlib.Path(__file__).parent, sys.argv[1]
backed_up_epochs = int(sys.argv[2]) if len(sys.argv) > 2 else None
options = {
    "alone": None,
    "mesh": {},
    "shard_optimizer": {"shard_optimizer": True},
    "shard_weights": {"shard_weights": True},
}[name]
rules = {"up/kernel$": (None, "model"), "up/bias$": ("model",), "down/kernel$": ("model", None)}
if options is None:
    strategy = tfdist.create_strategy("one_device")
else:
    options |= {"layout_map": rules, "timeout_s": 60, "random_by_row": True}
    strategy = tfdist.create_strategy("mesh", mesh="batch=2,model=2", **options)

import keras
import numpy as np
from tfdist.process import num_processes, process_index

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)
rows, labels = generator.standard_normal((21, 8)).astype("float32"), generator.integers(0, 4, 21)
with strategy.scope():
    up, down = keras.layers.Dense(16, "tanh", name="up"), keras.layers.Dense(4, name="down")
    model = keras.Sequential([keras.Input((8,)), up, keras.layers.Dropout(0.0 if backed_up_epochs else 0.3), down])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
callback = keras.callbacks.ModelCheckpoint(str(here / f"{name}.keras"))

class Stop(keras.callbacks.Callback):
    # The last process alone stops the training after the second batch of the second epoch.
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch, process_index()) == (1, 1, num_processes() - 1):
            self.model.stop_training = True

if backed_up_epochs and options is not None:
    model.build((None, 8))
    callback = keras.callbacks.BackupAndRestore(str(here / "backup"), delete_checkpoint=backed_up_epochs == 2)
epochs = backed_up_epochs or 2
fitting = {"batch_size": 8, "epochs": epochs, "shuffle": False, "verbose": 0, "callbacks": [callback, Stop()]}
history = model.fit(rows, labels, **fitting).history
found = [*model.get_weights(), model.predict(rows, verbose=0), *map(np.asarray, history.values())]
np.savez(here / f"{name}.{process_index()}.npz", *found)
if options is not None:
    print("bytes", up.kernel.value.device_bytes())
"""

CROSSED = """
import tfdist
from tfdist._internals.mesh.operations.table import OPERATIONS, _relaid

# Stock stacks the time steps in front of the batch, and the gradient of that has several results.
OPERATIONS["TimeDistributed"] = _relaid("inputs")
strategy = tfdist.create_strategy("mesh", mesh="batch=2,model=2", layout_map="auto", timeout_s=60)

import keras
import numpy as np

with strategy.scope():
    layers = [keras.layers.Dense(32, "tanh"), keras.layers.Reshape((8, 4))]
    layers += [keras.layers.TimeDistributed(keras.layers.Dense(4)), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("sgd", "mse")
model.fit(np.ones((12, 4), "float32"), np.ones((12, 3), "float32"), batch_size=12, verbose=0)
"""


def run(folder: Path, name: str, num_processes: int, *arguments: str) -> list[str]:
    """Runs the script and returns the outputs of its processes."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    logs = [folder / f"{name}.{index}.txt" for index in range(num_processes)]
    command = [sys.executable, str(script), name, *arguments]
    codes = ProcessGroup(command, worker_environments(num_processes), logs, forked=True).wait(LIMIT_S)
    outputs = [log.read_text(errors="replace") for log in logs]
    assert codes == [0] * num_processes, "\n\n".join(output[-3000:] for output in outputs)
    return outputs


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("alone")
    run(folder, "alone", 1)
    return dict(np.load(folder / "alone.0.npz"))


# The kernel of 8 x 16 float32 is split over model, and with its rows over batch where weights are sharded.
@pytest.mark.parametrize(
    ("name", "kernel_bytes"), [("mesh", 256), ("shard_optimizer", 256), ("shard_weights", 128)]
)
def test_two_processes_are_one_device(tmp_path, alone, name, kernel_bytes):
    outputs = run(tmp_path, name, 2)
    for index, output in enumerate(outputs):
        assert f"bytes [{kernel_bytes}, {kernel_bytes}]" in output
        found = np.load(tmp_path / f"{name}.{index}.npz")
        for key, expected in alone.items():
            np.testing.assert_allclose(found[key], expected, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE)
    import keras

    loaded = keras.models.load_model(tmp_path / f"{name}.keras")
    for weight, expected in zip(loaded.get_weights(), alone.values(), strict=False):
        np.testing.assert_allclose(weight, expected, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE)
    assert int(loaded.optimizer.iterations) == 5


def test_a_backup_is_gone_on_with(tmp_path):
    """The second run does the second epoch only, from what the processes saved together after the first."""
    run(tmp_path, "alone", 1, "2")
    run(tmp_path, "shard_weights", 2, "1")
    assert [path.name for path in (tmp_path / "backup").iterdir()] == ["epoch-1"]
    run(tmp_path, "shard_weights", 2, "2")
    assert not (tmp_path / "backup").exists()
    alone, found = (dict(np.load(tmp_path / f"{name}.0.npz")) for name in ("alone", "shard_weights"))
    *parameters, _ = [key for key in alone if alone[key].ndim > 1 or alone[key].shape in ((16,), (4,))]
    for key in parameters:
        np.testing.assert_allclose(found[key], alone[key], rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE)
    losses = [key for key, value in alone.items() if value.shape == (2,)]
    for key in losses:  # of each epoch
        np.testing.assert_allclose(found[key], alone[key][1:], rtol=RELATIVE_TOLERANCE)


def test_collectives_that_would_cross_are_refused(tmp_path: Path) -> None:
    """If this fails, DTensor numbers them alike: delete the operation `TimeDistributed` and the comparison."""
    script = tmp_path / "crossed.py"
    script.write_text(CROSSED)
    logs = [tmp_path / f"{index}.txt" for index in range(2)]
    codes = ProcessGroup([sys.executable, str(script)], worker_environments(2), logs, forked=True).wait(
        LIMIT_S
    )
    outputs = [log.read_text(errors="replace") for log in logs]
    assert 0 not in codes and None not in codes, codes
    # The first to see it tells the other, which may end before it has seen it too.
    assert any("collectives differently in the processes of this mesh" in one for one in outputs), outputs
