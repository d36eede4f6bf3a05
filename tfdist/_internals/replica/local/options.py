"""The options of local steps, checked: how long a round is, and what follows the average at its end."""

from __future__ import annotations

from typing import Any, NamedTuple

from tfdist.errors import ConfigError, did_you_mean

# Name -> the default step size and momentum of the outer update, None where it has neither. Those of slow momentum are
# the defaults of `SlowMomentumOptimizer` of torchdistx, those of Nesterov the values of Douillard et al. 2023.
_OUTER: dict[str, tuple[float, float] | None] = {
    "average": None,
    "slow_momentum": (1.0, 0.5),
    "nesterov": (0.7, 0.9),
}


class LocalSteps(NamedTuple):
    """What a strategy was told about local steps.

    Attributes:
        num_updates: The updates that a replica makes by itself in a round.
        outer_optimizer: What follows the average: `"average"` nothing, `"slow_momentum"` or `"nesterov"`.
        outer_learning_rate: The step size of the outer update; 1 for an average.
        outer_momentum: How much of the outer momentum stays for the next round; 0 for an average.
    """

    num_updates: int
    outer_optimizer: str
    outer_learning_rate: float
    outer_momentum: float

    @property
    def has_momentum(self) -> bool:
        """Whether an outer update follows the average, which needs the weights of the round's begin."""
        return self.outer_optimizer != "average"


def read_options(
    local_steps: Any, outer_optimizer: Any, outer_learning_rate: Any, outer_momentum: Any
) -> LocalSteps | None:
    """Returns the options of local steps; None where each step is synchronous.

    One local step with plain averaging is synchronous training: the sum of the gradients costs as much as the average
    of the weights, and optimizers with a state are exact with it.

    Raises:
        ConfigError: A value that is not allowed, or an outer option that nothing would use.
    """
    if isinstance(local_steps, bool) or not isinstance(local_steps, int) or local_steps < 1:
        raise ConfigError(
            f"local_steps={local_steps!r} is not possible; give the number of updates that each replica makes between "
            "two averages, at least 1, such as local_steps=16."
        )
    if outer_optimizer not in _OUTER:
        raise ConfigError(
            f"outer_optimizer={outer_optimizer!r} is not possible; it is one of {list(_OUTER)}."
            f"{did_you_mean(str(outer_optimizer), list(_OUTER))}"
        )
    defaults = _OUTER[outer_optimizer]
    if defaults is None:
        for name, value in (("outer_learning_rate", outer_learning_rate), ("outer_momentum", outer_momentum)):
            if value is not None:
                raise ConfigError(
                    f"{name}={value!r} has no use with outer_optimizer='average', which takes the mean of the weights "
                    "as it is. Leave it out, or give outer_optimizer='slow_momentum' or 'nesterov'."
                )
        return None if local_steps == 1 else LocalSteps(local_steps, outer_optimizer, 1.0, 0.0)
    learning_rate = defaults[0] if outer_learning_rate is None else outer_learning_rate
    momentum = defaults[1] if outer_momentum is None else outer_momentum
    if not _is_number(learning_rate) or learning_rate <= 0:
        raise ConfigError(
            f"outer_learning_rate={learning_rate!r} is not possible; give a number above 0, such as {defaults[0]}."
        )
    if not _is_number(momentum) or not 0 <= momentum < 1:
        raise ConfigError(
            f"outer_momentum={momentum!r} is not possible; give a number from 0 to below 1, such as {defaults[1]}."
        )
    return LocalSteps(local_steps, outer_optimizer, float(learning_rate), float(momentum))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
