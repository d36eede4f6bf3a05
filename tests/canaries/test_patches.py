"""Every patch of Keras and TensorFlow is still needed: without it, a tiny run goes wrong in the way that is stated.

A failure here is good news: upstream is right, or wrong in another way, and the patch it names can go or change.
"""

from __future__ import annotations

import re

import checks  # noqa: F401
import fitting  # noqa: F401
import losses  # noqa: F401
import operations  # noqa: F401
import optimizers  # noqa: F401
import pytest
import randomness  # noqa: F401
from canary import CANARIES, PATCHES, strategy, what_goes_wrong

from tfdist._internals.patches import list_patches


@pytest.mark.wide
@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, marks=pytest.mark.xdist_group(f"canaries of {canary.subject}"))
        for target, canary in CANARIES.items()
    ],
)
def test_patch_is_needed(target: str) -> None:
    patch, canary = PATCHES[target], CANARIES[target]
    strategy()
    canary.check()
    patch.revert()
    try:
        wrong = what_goes_wrong(canary.check)
    finally:
        patch.apply()
    assert wrong, f"stock {target} is right now: delete the patch in tfdist/_internals ({patch.name})"
    assert re.search(canary.stock, wrong, re.DOTALL), f"stock {target} is wrong in another way now: {wrong}"


def test_every_patch_has_a_canary() -> None:
    assert set(CANARIES) == set(PATCHES)


def test_patches_are_in_force_once() -> None:
    strategy()
    assert all(patch.active for patch in PATCHES.values())
    assert len({(id(patch.owner), patch.attribute) for patch in list_patches()}) == len(list_patches())
