"""The results of `benchmarks.finetune` as tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def markdown(results: Mapping[str, Any]) -> str:
    """Returns a row for each contestant, those that are not installed among them, and a row for each ratio."""
    lines = [
        "| contestant | examples/s | first calls, s | tokens an example | score, mean ± spread | a run, s |",
        "|---|---|---|---|---|---|",
    ]
    speed, scores = results.get("speed", {}), results.get("accuracy", {})
    measured = speed.get("contestants", {})
    for name in dict.fromkeys([*measured, *scores]):
        one, score = measured.get(name, {}), scores.get(name)
        told = f"{score['mean']:.2f} ± {score['spread']:.2f} ({score['seeds']} seeds)" if score else "–"
        cells = [_number(one.get(key)) for key in ("examples_per_s", "first_s", "tokens_per_example")]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {told} | {_number(score['train_s']) if score else '–'} |"
        )
    for name, why in {**results.get("absent", {}), **speed.get("failed", {})}.items():
        lines.append(f"| {name} | {why} | – | – | – | – |")
    lines += ["", "| examples/s | aim | median | quartiles | rounds |", "|---|---|---|---|---|"]
    for mine, found in speed.get("ratios", {}).items():
        for peer, ratio in found["peers"].items():
            best = peer in (found.get("best_peer"), found.get("best_peer_in_its_precision"))
            cells = f"{ratio['median']:.2f} | {ratio['low']:.2f}–{ratio['high']:.2f} | {ratio['rounds']}"
            lines.append(f"| {mine} / {peer} | {'2.5' if best else '–'} | {cells} |")
    return "\n".join(lines)
