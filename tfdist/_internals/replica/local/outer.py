"""The outer update: where the weights go from those at the begin of a round, given the average at its end."""

from __future__ import annotations

import tensorflow as tf

from tfdist._internals.replica.local.options import LocalSteps


def outer_update(
    options: LocalSteps, begin: tf.Tensor, average: tf.Tensor, momentum: tf.Tensor, learning_rate: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the new weights and the new outer momentum of one variable; all tensors of one dtype.

    `"slow_momentum"` is SlowMo (Wang et al. 2020, "SlowMo: Improving communication-efficient distributed SGD with slow
    momentum", algorithm 1): `u = momentum * u + (begin - average) / learning_rate`, and the weights are
    `begin - outer_learning_rate * learning_rate * u`. `"nesterov"` is the outer optimizer of DiLoCo (Douillard et al.
    2023, "DiLoCo: Distributed low-communication training of language models"): Nesterov momentum, as PyTorch writes
    it, on the gradient `begin - average`.

    Args:
        options: The outer optimizer with its numbers.
        begin: The weights at the begin of the round.
        average: The mean of the replicas' weights at its end.
        momentum: The outer momentum, of the same shape.
        learning_rate: The mean of the inner learning rate over the round; slow momentum uses it.
    """
    decay, rate = options.outer_momentum, options.outer_learning_rate
    gradient = begin - average
    if options.outer_optimizer == "nesterov":
        momentum = decay * momentum + gradient
        return begin - rate * (gradient + decay * momentum), momentum
    # A learning rate of 0 has left the weights as they were.
    momentum = decay * momentum + tf.math.divide_no_nan(gradient, learning_rate)
    return begin - rate * learning_rate * momentum, momentum
