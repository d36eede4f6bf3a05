"""Pictures of results: examples/s beside peers, and bytes against accuracy.

    python -m benchmarks.plots [--results DIR] [--output DIR]

Needs matplotlib (`pip install matplotlib`), in any Python, and nothing of tfdist.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COLORS = {"tfdist": "#1f77b4", "keras-tf": "#ff7f0e", "keras-jax": "#2ca02c", "hf": "#9467bd"}
NAMES = {
    "tfdist": "tfdist",
    "keras-tf": "Keras, TensorFlow",
    "keras-jax": "Keras, JAX",
    "hf": "HF Accelerate",
}


def speed_picture(results: dict[str, Any], title: str, path: Path) -> bool:
    """Draws a bar for each contestant of `benchmarks.finetune`; returns whether there was anything to draw."""
    import matplotlib.pyplot as plt

    found = {
        name: one["examples_per_s"]
        for name, one in results.get("speed", {}).get("contestants", {}).items()
        if one["examples_per_s"]
    }
    if not found:
        return False
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(found) + 1.2))
    ordered = sorted(found, key=lambda name: found[name])
    kinds = [name.split(":") for name in ordered]
    bars = axes.barh(
        [f"{NAMES[kind]}, {precision}" for kind, precision in kinds],
        [found[name] for name in ordered],
        color=[COLORS[kind] for kind, _ in kinds],
    )
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set(xlabel="training examples/s", title=title)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
    return True


def bytes_picture(results: dict[str, Any], path: Path) -> bool:
    """Draws bytes of a step against the score of each contestant of `benchmarks.network`."""
    import matplotlib.pyplot as plt

    sent, scores = results.get("speed", {}).get("contestants", {}), results.get("accuracy", {})
    found = [name for name in scores if "bytes_per_step" in sent.get(name, {})]
    if not found:
        return False
    figure, axes = plt.subplots(figsize=(7, 4))
    for number, name in enumerate(found):
        one, score = sent[name], scores[name]
        axes.errorbar(one["bytes_per_step"] / 1e6, score["mean"], yerr=score["spread"], fmt="o", capsize=4)
        axes.annotate(
            name,
            (one["bytes_per_step"] / 1e6, score["mean"]),
            xytext=(7, 5 if number % 2 else -14),  # so that neighbours do not cover each other
            textcoords="offset points",
        )
    if "one_device" in scores:
        one = scores["one_device"]
        axes.axhline(one["mean"], color="grey", linewidth=1)
        axes.axhspan(one["mean"] - one["spread"], one["mean"] + one["spread"], color="grey", alpha=0.15)
        place = {"xycoords": ("axes fraction", "data"), "va": "bottom", "color": "grey"}
        axes.annotate("one device", (0.01, one["mean"]), **place)
    counts = sorted({scores[name]["seeds"] for name in found})
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    axes.set(
        xscale="log",
        xlabel="MB that a host sends in a step",
        ylabel=f"test score, %: mean and spread of {seeds} seeds",
    )
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
    return True


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON files"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures"
    )
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("matplotlib") is None:
        parser.exit(0, "matplotlib is not installed, so nothing is drawn. pip install matplotlib\n")
    import matplotlib

    matplotlib.use("agg")
    drawn = []
    for source in sorted(arguments.results.glob("finetune_*.json")):
        path = arguments.output / f"{source.stem}.png"
        task = "tagging of wnut17" if source.stem == "finetune_token" else "movie reviews"
        if speed_picture(json.loads(source.read_text()), f"Fine-tuning MiniLM: {task}", path):
            drawn.append(path)
    network = arguments.results / "network.json"
    if network.exists() and bytes_picture(
        json.loads(network.read_text()), arguments.output / "bytes_accuracy.png"
    ):
        drawn.append(arguments.output / "bytes_accuracy.png")
    for path in drawn:
        print(path)


if __name__ == "__main__":
    main()
