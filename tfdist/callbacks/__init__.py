"""Keras callbacks that are right on several workers; one class a file.

Give them to `fit` on every worker: only the chief writes, but in some the workers meet. A callback with a state that a
resumed run needs has `get_state()` and `set_state(state)`; the state is a dictionary ready for JSON.
"""

from tfdist.callbacks.backup_and_restore import BackupAndRestore
from tfdist.callbacks.csv_logger import CSVLogger
from tfdist.callbacks.early_stopping import EarlyStopping
from tfdist.callbacks.learning_rate_warmup import LearningRateWarmup
from tfdist.callbacks.model_checkpoint import ModelCheckpoint
from tfdist.callbacks.tensorboard import TensorBoard
from tfdist.callbacks.throughput import Throughput

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "EarlyStopping",
    "LearningRateWarmup",
    "ModelCheckpoint",
    "TensorBoard",
    "Throughput",
]
