"""Where the processes meet in a call: at its start, after the build, after the first step, and at the end of an epoch.

Each meeting is one small exchange. What the processes must have alike rides along with what they send anyway.
"""

from __future__ import annotations

from typing import Any

from tfdist._internals.fit.agreement.batches import check_batches
from tfdist._internals.fit.agreement.settings import check_settings, settings_of
from tfdist._internals.fit.agreement.weights import check_weights, weights_in_short
from tfdist._internals.fit.run import run_of
from tfdist._internals.fit.source import seen_batches
from tfdist._internals.processes.coordination import all_gather_json
from tfdist._internals.processes.place import HERE

# Whether the model was not built in some process when the call began, so that its weights are to be compared later.
_weights_to_come = False


def begin_call(
    model: Any, name: str, given: dict[str, Any], settings: tuple[str, ...], *, may_stop: bool
) -> bool:
    """Checks that the processes were told the same, and have the same weights, before the first collective.

    Args:
        model: The model.
        name: The call.
        given: Its arguments.
        settings: The names of the arguments that are compared by value.
        may_stop: Whether a callback of this process may stop the training after a batch.

    Returns:
        Whether one of any process may.
    """
    global _weights_to_come
    own = {
        "settings": settings_of(model, name, given, settings),
        "weights": weights_in_short(model, slots=name == "fit"),
        "may_stop": may_stop,
    }
    found = all_gather_json(f"the start of {name}", own)
    check_settings([one["settings"] for one in found])
    weights = [one["weights"] for one in found]
    _weights_to_come = None in weights
    check_weights(model, weights, f"at the start of {name}", slots=name == "fit")
    return any(one["may_stop"] for one in found)


def note_built(model: Any) -> None:
    """Checks the weights of a model that was built in this call."""
    global _weights_to_come
    if not _weights_to_come:
        return
    _weights_to_come = False
    found = all_gather_json("the weights of a built model", weights_in_short(model, slots=True))
    check_weights(model, found, f"at the start of {HERE.calls[0].name}", slots=True)


def after_first_step() -> None:
    """Checks that the processes were given the same first batch."""
    check_batches(all_gather_json("the first step", seen_batches()))


def end_epoch(model: Any, wants_stop: bool, epoch: int) -> bool:
    """Checks that the weights are still the same; returns whether a process wants to stop the training."""
    own = {
        "stop": wants_stop,
        "weights": weights_in_short(model, slots=False),
        "batches": seen_batches(),
    }
    found = all_gather_json("the end of an epoch", own)
    check_batches([one["batches"] for one in found])
    check_weights(model, [one["weights"] for one in found], f"after epoch {epoch + 1}", slots=False)
    return any(one["stop"] for one in found)


def end_call(model: Any, name: str) -> None:
    """Waits for all processes. If one went on and ended, it would break the collectives of another that is late."""
    run_of(model).votes()
    check_batches(all_gather_json(f"the end of {name}", seen_batches()))
