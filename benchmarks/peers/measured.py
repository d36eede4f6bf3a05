"""What steps took: steady ones told apart from first ones, and ratios of steps that lie side by side in time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import summary

# rows, padded length, seconds, processor seconds
Step = Sequence[float]
Turns = Sequence[Sequence[Step]]
# The first steps of a process are not like the others: caches are filled, and threads are made.
WARM_UP = 3


def steady(turns: Turns, compiles_shapes: bool) -> list[list[bool]]:
    """Returns for each step whether it counts: not one of the first, nor the first of its shape if shapes compile."""
    seen: set[tuple[float, float]] = set()
    counted: list[list[bool]] = []
    number = 0
    for turn in turns:
        flags = []
        for rows, length, *_ in turn:
            shape = (rows, length)
            flags.append(number >= WARM_UP and not (compiles_shapes and shape not in seen))
            seen.add(shape)
            number += 1
        counted.append(flags)
    return counted


def summarized(turns: Turns, compiles_shapes: bool) -> dict[str, Any]:
    """Returns speed and first-call time of one contestant.

    A step counts with the median seconds of the steps of its padded length, so that a disturbance of one step is
    nothing. `first_s` is what the steps that do not count took more than that: tracing and compiling.
    """
    steps = [step for turn in turns for step in turn]
    flags = [flag for turn in steady(turns, compiles_shapes) for flag in turn]
    by_length: dict[float, list[Step]] = {}
    for step, flag in zip(steps, flags, strict=True):
        if flag:
            by_length.setdefault(step[1], []).append(step)
    medians = {
        length: [statistics.median(step[column] for step in same) for column in (2, 3)]
        for length, same in by_length.items()
    }
    counted = [step for step in steps if step[1] in medians]
    rows, seconds = sum(step[0] for step in counted), sum(medians[step[1]][0] for step in counted)
    first = sum(
        step[2] - medians.get(step[1], [0])[0] for step, flag in zip(steps, flags, strict=True) if not flag
    )
    return {
        "examples_per_s": rows / seconds if seconds else None,
        "examples_per_processor_s": rows / sum(medians[step[1]][1] for step in counted) if counted else None,
        "step_s": summary([step[2] for step, flag in zip(steps, flags, strict=True) if flag])
        if counted
        else None,
        "first_s": first,
        "tokens_per_example": sum(step[0] * step[1] for step in steps) / sum(step[0] for step in steps),
        "lengths": len({step[1] for step in steps}),
        "steps": len(steps),
        "steady_steps": sum(flags),
    }


def paired(one: tuple[Turns, bool], other: tuple[Turns, bool]) -> dict[str, float] | None:
    """Returns the summary over rounds of (seconds of `other`) / (seconds of `one`) on steps that count for both.

    So it is how many times the examples/s of `other` `one` has. None if no round has such steps.

    Raises:
        ValueError: The two did not train the same batches.
    """
    ratios = []
    flags = steady(*one), steady(*other)
    for mine, theirs, my_flags, their_flags in zip(one[0], other[0], *flags, strict=False):
        if [step[0] for step in mine] != [step[0] for step in theirs]:
            raise ValueError("The contestants did not train the same batches.")
        pairs = [
            (a[2], b[2])
            for a, b, mine_counts, counts in zip(mine, theirs, my_flags, their_flags, strict=True)
            if mine_counts and counts
        ]
        if pairs:
            ratios.append(sum(b for _, b in pairs) / sum(a for a, _ in pairs))
    return {**summary(ratios), "rounds": len(ratios)} if ratios else None


def beside(contestants: Mapping[str, tuple[Turns, bool]]) -> dict[str, Any]:
    """Returns the ratios of each tfdist contestant to each peer, and which peers are the best."""
    found: dict[str, Any] = {}
    ours = [name for name in contestants if name.startswith("tfdist:")]
    for mine in ours:
        rows = {
            peer: ratio
            for peer, other in contestants.items()
            if peer not in ours and (ratio := paired(contestants[mine], other)) is not None
        }
        alike = {peer: ratio for peer, ratio in rows.items() if peer.split(":")[1] == mine.split(":")[1]}
        found[mine] = {"peers": rows} | {
            name: min(group, key=lambda peer: group[peer]["median"])
            for name, group in (("best_peer", rows), ("best_peer_in_its_precision", alike))
            if group
        }
    return found
