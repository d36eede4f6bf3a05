"""O2: batches that the replicas cannot share evenly, and replicas that get no row at all."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfdist.parity import tiny
from tfdist.parity.cases.steps import OPTIMIZERS, embedded
from tfdist.parity.context import Context
from tfdist.parity.registry import BASE, NARROW, WIDE, case


@case("O2", layouts=WIDE, stock_workers=True, quick=True, meshes=True)
def uneven_rest(context: Context) -> dict[str, Any]:
    """Every rest r of 12 + r rows, r = 1 to 11, one model after the other."""
    found: dict[str, Any] = {}
    model = tiny.compiled(context, metrics=["accuracy"])
    start = model.get_weights()
    for rest in range(1, tiny.BATCH):
        model.set_weights(start)
        result = tiny.fitted(context, model, tiny.BATCH + rest, epochs=1)
        found |= {f"{key} rest {rest}": value for key, value in result.items()}
    return found


@case("O2", each=["1", "2", "3"], layouts=(*BASE, "mirrored_4"))
def fewer_rows_than_replicas(context: Context, rows: str) -> dict[str, Any]:
    """A whole dataset smaller than the replicas: the very first batch leaves some empty."""
    return tiny.fitted(context, tiny.compiled(context, metrics=["accuracy"]), int(rows))


@case("O2", meshes=True)
def odd_batch(context: Context) -> dict[str, Any]:
    """A global batch of 7 that no number of replicas divides."""
    return tiny.fitted(context, tiny.compiled(context, tiny.mlp), 30, batch_size=7)


@case("O2", each=["momentum", "adam", "adafactor", "muon"], layouts=NARROW, meshes=True)
def uneven_optimizer(context: Context, name: str) -> dict[str, Any]:
    """Optimizers over a tail of one row in each of three epochs."""
    model = tiny.compiled(context, tiny.mlp, OPTIMIZERS[name], metrics=["accuracy"])
    return tiny.fitted(context, model, 25, epochs=3)


@case("O2", layouts=NARROW, meshes=True)
def uneven_embedding(context: Context) -> dict[str, Any]:
    """Embedding with repeated ids, momentum, a tail of one row."""
    model = tiny.compiled(context, embedded, OPTIMIZERS["momentum"])
    ids = np.random.default_rng(0).integers(0, 11, (25, 5)).astype("int32")
    history = model.fit(ids, tiny.rows(25)[1], batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.outcome(context, model, history)
