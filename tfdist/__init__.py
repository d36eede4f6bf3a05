"""tfdist: Keras 3 `fit` that gives the one-device result under every TensorFlow distribution strategy."""

from __future__ import annotations

from tfdist.lazy_names import lazy_names

__version__ = "0.1.0"

# Public name -> module; None for a package.
_PUBLIC = {
    "create_strategy": "strategies.factory",
    "broadcast_weights": "strategies.broadcast",
    "average_weights": "strategies.average",
    "list_strategies": "strategies.factory",
    "register_strategy": "strategies.factory",
    "sum_gradients": "own_steps",
    "gather_rows": "own_steps",
    "mean_over_rows": "own_steps",
    "sum_over_rows": "own_steps",
    "whole_batch_loss": "own_steps",
    "plan_sharding": "planner",
    "sharding_report": "sharding.report",
    "callbacks": None,
    "models": None,
    "data": None,
    "errors": None,
}

__all__ = list(_PUBLIC)
__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)
