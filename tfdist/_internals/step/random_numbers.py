"""Random numbers inside a step: each part draws its own; with `random_by_row` each row gets those of one device.

All parts advance one seed alike, and each part's own seed is made from it. With `random_by_row`, a draw is the same in
all parts if its first dimension is fixed in the model, or is not the number of rows: on one device all rows share it.

Where XLA compiles the forward and backward pass, the masks of dropout are made from a counter.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import random as backend_random
from keras.src.random.seed_generator import SeedGenerator, draw_seed

from tfdist._internals.contract import Step, drawing_step
from tfdist._internals.patch import Patch, in_step
from tfdist.models import compiled_parts, counter_random
from tfdist.models.counter_random import Key


def _of_part(step: Step, stock: Any, generator: Any, ordered: bool = True) -> Any:
    return step.seed(lambda: stock(generator, ordered))


def _by_row(step: Step, stock: Any, shape: Any, *args: Any, **kwargs: Any) -> Any:
    if not step.by_row:
        return stock(shape, *args, **kwargs)
    return step.draw(shape, lambda whole: stock(whole, *args, **kwargs))


def _dropout(
    step: Step, stock: Any, inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None
) -> Any:
    if rate in (0.0, 1.0):
        return stock(inputs, rate, noise_shape, seed)
    dropout = _dropout_by_counter if step.in_compiled and inputs.shape.rank else stock
    if not step.by_row:
        return dropout(inputs, rate, noise_shape, seed)
    shape = backend_random._get_concrete_noise_shape(inputs, noise_shape)
    # Dropout is applied to ones: they become 0 where it drops, and elsewhere the scale of what is left.
    kept = step.draw(shape, lambda whole: dropout(tf.ones(whole, inputs.dtype), rate, None, seed))
    return tf.where(tf.equal(kept, 0), tf.zeros([], inputs.dtype), inputs * kept)


def _dropout_by_counter(inputs: Any, rate: float, noise_shape: Any, seed: Any) -> Any:
    """Returns what Keras's dropout does, with a mask that XLA makes in the loop that uses it."""
    drawn = backend_random._cast_seed(draw_seed(seed))
    shape = tf.stack(backend_random._get_concrete_noise_shape(inputs, noise_shape))
    return counter_random.dropped(
        inputs, rate, Key(tf.cast(drawn, tf.uint32), tf.constant(0, tf.int64)), shape
    )


def _key_of_rows(step: Step, stock: Any, generator: Any) -> Key:
    with step.drawing_for_all():
        return Key(stock(generator).seed, step.first_row)


# What tfdist's own models ask where they are traced -> the attribute of the step that may forbid it, and why.
_QUESTIONS = {
    (compiled_parts, "are_on"): (
        "compiles_parts",
        "DTensor does not know the shapes in a program of XLA that serves batches of several sizes",
    ),
    (counter_random, "are_used"): (
        "masks_by_row",
        "on a mesh every device would make the masks of all rows, unless random_by_row asks for it",
    ),
}


def _if_step_allows(attribute: str, step: Step, stock: Any) -> bool:
    return bool(getattr(step, attribute) and stock())


PATCHES = (
    Patch(
        name="step.random_numbers",
        owner=SeedGenerator,
        attribute="next",
        make=in_step(_of_part, drawing_step),
        reason="dropout and augmentation masks are the same on every replica",
        upstream="no thread found for Keras 3",
    ),
    *(
        Patch(
            name="step.random_numbers",
            owner=backend_random,
            attribute=attribute,
            make=in_step(_dropout if attribute == "dropout" else _by_row, drawing_step),
            reason="with random_by_row, a row's random numbers must not depend on the number of replicas",
            upstream="no thread found",
        )
        for attribute in ("dropout", "normal", "truncated_normal", "uniform", "randint")
    ),
    Patch(
        name="step.random_numbers",
        owner=counter_random,
        attribute="next_key",
        make=in_step(_key_of_rows, drawing_step),
        reason="a mask that is made by the numbers of rows needs to know which rows of the batch are here",
        upstream="none: it is tfdist's own",
    ),
    *(
        Patch(
            name="step.random_numbers",
            owner=owner,
            attribute=question,
            make=in_step(functools.partial(_if_step_allows, attribute), drawing_step),
            reason=reason,
            upstream="none: it is tfdist's own",
        )
        for (owner, question), (attribute, reason) in _QUESTIONS.items()
    ),
)
