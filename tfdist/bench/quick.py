"""The comparisons of `tfdist bench`: minutes on two cores, and the questions that people ask first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tfdist.bench.comparisons import Comparison, Entry

_MODELS = "tfdist.bench.models"
_TEXTS = 32

# What `tfdist train` asks for.
_AS_TRAIN: dict[str, Any] = {"repeated_rows": "sum", "compiled_update": "auto"}


def quick_comparisons(cores: Sequence[int], rounds: int, brief: bool) -> list[Comparison]:
    """Returns the comparisons.

    Args:
        cores: The cores that this process may use; the workers get one each.
        rounds: Rounds of each comparison.
        brief: Takes only those of small models.
    """
    plain = {model: _entry("plain Keras", model, "plain") for model in ("mlp", "bert")}
    small = [
        Comparison("MLP, a step", _entry("one_device", "mlp"), plain["mlp"], 1.02, 100, rounds),
        Comparison("small BERT, a step", _entry("one_device", "bert"), plain["bert"], 1.02, 20, rounds),
        Comparison(
            "small BERT, a step",
            _entry("mirrored of 2", "bert", "mirrored", devices=2),
            _entry("stock mirrored of 2", "bert", "stock_mirrored", devices=2),
            1.0,
            20,
            rounds,
        ),
    ]
    return small if brief else [*small, *large_comparisons(cores, rounds)]


def large_comparisons(cores: Sequence[int], rounds: int, steps: int = 3) -> list[Comparison]:
    """Returns those of a model of MiniLM's size.

    Args:
        cores: The cores of this process; without two of them the workers are left out.
        rounds: Rounds of each comparison.
        steps: Steps of a turn.
    """
    options = {**_AS_TRAIN, "compiled_update": False}
    one = _entry("one_device", "minilm", **options)
    compiled = _entry("compiled update", "minilm", **_AS_TRAIN)
    mirrored = _entry("mirrored of 2", "minilm", "mirrored", devices=2, **_AS_TRAIN)
    found = [
        Comparison("MiniLM, a step", compiled, one, None, steps, rounds),
        Comparison("MiniLM, examples/s", mirrored, compiled, 0.95, steps, rounds, min_rate=True),
    ]
    if len(cores) >= 2:
        found.append(weak_scaling("2 workers", {}, cores, 0.90, steps, rounds))
    return found


def weak_scaling(
    name: str, options: Mapping[str, Any], cores: Sequence[int], aim: float, steps: int, rounds: int
) -> Comparison:
    """Returns two workers, each on a core of its own, beside one alone on one core with half of the global batch."""
    asked = {**_AS_TRAIN, **options}
    alone = Entry("1 worker alone", _spec("minilm", "one_device", _TEXTS // 2, _AS_TRAIN), [[cores[0]]])
    spec = _spec("minilm", "multi_worker_mirrored", _TEXTS, asked)
    both = Entry(name, spec, [[cores[0]], [cores[1]]])
    title = "MiniLM, examples/s of a worker"
    return Comparison(title, both, alone, aim, steps, rounds, min_rate=True, per_worker=True)


def _entry(name: str, model: str, strategy: str = "one_device", **options: Any) -> Entry:
    return Entry(name, _spec(model, strategy, 128 if model == "mlp" else _TEXTS, options))


def _spec(model: str, strategy: str, rows: int, options: Mapping[str, Any]) -> dict[str, Any]:
    # What is timed is not the check of the first step, which the first round has.
    checked = {} if strategy in ("plain", "stock_mirrored", "one_device") else {"self_check": "off"}
    return {
        "model": f"{_MODELS}:{model}",
        "strategy": strategy,
        "rows": rows,
        "options": {**checked, **options},
    }
