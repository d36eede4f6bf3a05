"""Two processes of a mesh whose collectives would cross are found by what each collective is given."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from tfdist._internals.mesh.programs import collectives_of, compare
from tfdist.errors import UnsupportedError


def program(order: list[int], names: str = "") -> Any:
    """Sums both rows of a matrix over the devices; the rows in `order` get the collectives 1 and 2."""

    @tf.function(input_signature=[tf.TensorSpec([2, 3])])
    def run(value: tf.Tensor) -> list[tf.Tensor]:
        with tf.name_scope(names or "step"):
            rows = tf.unstack(value)
        return [
            tf.raw_ops.CollectiveReduceV2(
                input=rows[row],
                group_size=2,
                group_key=7,
                instance_key=key,
                ordering_token=[],
                merge_op="Add",
                final_op="Id",
            )
            for key, row in enumerate(order, 1)
        ]

    return run.get_concrete_function().function_def


def test_equal_programs_agree_whatever_their_names() -> None:
    compare([collectives_of(program([0, 1])), collectives_of(program([0, 1], "other"))])
    assert len(collectives_of(program([0, 1]))) == 2


def test_crossed_collectives_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="numbered 2 collectives differently"):
        compare([collectives_of(program([0, 1])), collectives_of(program([1, 0]))])


def test_a_collective_that_one_process_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="numbered 1 collectives differently"):
        compare([collectives_of(program([0, 1])), collectives_of(program([0]))])
