"""Recurrent layers on a mesh run their time steps one by one in the program.

Stock loops with `tf.while_loop` over TensorArrays, for which DTensor has no layout rules. LSTM, GRU and SimpleRNN fail
with "'tf.EmptyTensorList' op does not implement layout propagation". An unrolled loop needs a static number of time
steps. The unrolled loop of stock reverses the inputs of a backward layer but not its mask, so both are reversed here.
"""

from __future__ import annotations

from typing import Any

from keras import tree
from keras.src import backend

from tfdist._internals.mesh.operations.arrays import sequences, time_steps
from tfdist._internals.mesh.step import MeshStep
from tfdist.errors import UnsupportedError


def rnn(step: MeshStep, stock: Any, step_function: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Runs the unrolled loop of stock, on inputs and a mask that are split over the batch alone.

    Raises:
        UnsupportedError: The batch does not say how many time steps it has.
    """
    time = 0 if kwargs.get("time_major") else 1
    if inputs.shape[time] is None:
        raise UnsupportedError(
            "the mesh strategy unrolls recurrent layers, which needs one length for all batches, and the batch "
            "says none. Pad the sequences to one length in the dataset."
        )
    kwargs["unroll"] = True
    if kwargs.get("go_backwards") and kwargs.get("mask") is not None:
        kwargs |= {"go_backwards": False, "mask": backend.numpy.flip(kwargs["mask"], time)}
        inputs = backend.numpy.flip(inputs, time)
    if kwargs.get("mask") is not None:
        kwargs["mask"] = step.by_batch(kwargs["mask"])
    # The results too: else DTensor carries the layout that the next operation wants into every time step.
    results = stock(step_function, step.by_batch(inputs), *args, **kwargs)
    return tree.map_structure(step.by_batch, results)


def time_distributed(
    step: MeshStep, stock: Any, layer: Any, inputs: Any, training: bool | None = None, mask: Any = None
) -> Any:
    """Calls the layer inside of a `TimeDistributed` for each time step, on what is split over the batch alone.

    Stock swaps the batch and the time before and afterwards. DTensor then splits the time steps over the devices of the
    batch, and moves all of them to and fro.
    """
    if inputs.shape[1] is None:
        return stock(layer, step.by_batch(inputs), training=training, mask=mask)
    inner, results = layer.layer, []
    for index, one in enumerate(time_steps(step, inputs)):
        options: dict[str, Any] = {"training": training} if inner._call_has_training_arg else {}
        if mask is not None and inner._call_has_mask_arg:
            options["mask"] = step.by_batch(mask)[:, index]
        results.append(inner.call(one, **options))
    return sequences(step, results)
