"""Carries Keras's thread-local state into the threads that trace replicas.

Keras keeps the dtype policy, the scopes of autocast and custom objects, and the global seed generator in thread-locals.
MirroredStrategy traces replicas in threads of its own, in which these have their defaults. A global `mixed_bfloat16` is
float32 there, and functions of `keras.random` without a seed make a new generator and crash.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, SeedGenerator, make_default_seed
from keras.src.utils.naming import auto_name


def capture() -> dict[str, Any]:
    """Returns this thread's Keras state; the values are shared, not copied."""
    state = dict(global_state.GLOBAL_STATE_TRACKER.__dict__)
    if state.get("stateless_scope") is None:
        # The scope that another thread opens makes the variables that are registered there. In a list that both have
        # they would be left for this thread, which then says that they are made already.
        state.pop("uninitialized_variables", None)
    return state


class _PlacedSeedGenerator(SeedGenerator):
    """Keras's global seed generator, made before it is known whether anybody draws from it.

    Plain Keras makes it in the first draw, with a seed from Python's `random` and the next free name. This one has the
    seed that `random` would give, and takes it from there in its own first draw. If it was never drawn from, `random`
    and the seeds of what is made later are those of one device.
    """

    def __init__(self, strategy: Any, own: SeedGenerator | None) -> None:
        self.strategy, self.drawn = strategy, own is not None
        before = random.getstate()
        with strategy.scope():
            super().__init__(name="seed_generator" if own is None else own.name)
            if own is not None:
                self.state.assign(own.state)
        random.setstate(before)

    def next(self, ordered: bool = True) -> Any:
        if not self.drawn:
            self.drawn = True
            make_default_seed()
            auto_name(SeedGenerator.__name__)
        return super().next(ordered)


@contextmanager
def placed_seed_generator(strategy: Any) -> Iterator[None]:
    """While open, functions of `keras.random` that are given no seed draw from a variable on every replica.

    A generator that was made outside of the scope hands on its state, so that draws go on as on one device. One that
    nobody has drawn from is forgotten at the end.
    """
    own = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    if own is None or not _is_placed(own, strategy):
        own = _PlacedSeedGenerator(strategy, own)
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, own)
    try:
        yield
    finally:
        is_current = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR) is own
        if is_current and isinstance(own, _PlacedSeedGenerator) and not own.drawn:
            global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)


def drawn_seed_generator() -> SeedGenerator | None:
    """Returns the generator of the functions of `keras.random` that are given no seed, if any has drawn from it."""
    own = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if isinstance(own, _PlacedSeedGenerator) and not own.drawn else own


def _is_placed(generator: SeedGenerator, strategy: Any) -> bool:
    if isinstance(generator, _PlacedSeedGenerator):
        return generator.strategy is strategy
    return getattr(generator.state.value, "_distribute_strategy", None) is strategy


@contextmanager
def restored(state: dict[str, Any]) -> Iterator[None]:
    """Gives this thread the captured state while open."""
    own = global_state.GLOBAL_STATE_TRACKER.__dict__
    before = dict(own)
    own.update(state)
    try:
        yield
    finally:
        own.clear()
        own.update(before)
