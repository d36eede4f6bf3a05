"""Two workers tokenize half of the examples each, and both have all of them afterwards."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tfdist.parity.processes import ProcessGroup, worker_environments

pytestmark = [pytest.mark.processes, pytest.mark.busy(2), pytest.mark.timeout(120)]

SCRIPT = """
import json, pathlib, sys
import numpy as np
import tfdist

devices, folder = int(sys.argv[1]), pathlib.Path(__file__).parent
strategy = tfdist.create_strategy("multi_worker_mirrored", devices_per_worker=devices, timeout_s=60)

from tfdist.config.schema import DataConfig
from tfdist.data.examples import TaggedExample, TextExample
from tfdist.models.tokenizer import WordTokenizer
from tfdist.tasks.registry import create_task
from tfdist.training.encoding import encode_examples

WORDS = "a few words of which some are in every text that is here".split()
generator = np.random.default_rng(0)
rows = [tuple(generator.choice(WORDS, generator.integers(1, 9))) for _ in range(7)]
examples = {
    "text-classification": [TextExample(" ".join(row), row[0]) for row in rows],
    "token-classification": [TaggedExample(row, row) for row in rows],
}
tokenizer = WordTokenizer.train([" ".join(row) for row in rows[:3]])
counts = {}
# Worker 0 keeps what was tokenized, worker 1 does not. Both must still come to the same exchange.
cached = DataConfig(max_length=6, cache_dir=str(folder / "cache") if strategy.process_index == 0 else "none")
for name, given in examples.items():
    task = create_task(name)
    whole = task.encode(given, sorted(WORDS), tokenizer, 6)
    for number, data in ((7, DataConfig(max_length=6)), (1, DataConfig(max_length=6)), (7, cached), (7, cached)):
        seen = []
        encode = task.encode
        task.encode = lambda part, *args: seen.extend(part) or encode(part, *args)
        found = encode_examples(strategy, task, given[:number], sorted(WORDS), tokenizer, data)
        task.encode = encode
        for part in ("ids", "labels", "positions"):
            ours, theirs = getattr(found, part), getattr(whole, part)
            assert (ours is None) == (theirs is None), part
            for one, other in zip(ours if ours is not None else (), theirs if theirs is not None else ()):
                assert one.dtype == other.dtype, (part, one.dtype, other.dtype)
                np.testing.assert_array_equal(one, other)
            assert ours is None or len(ours) == number
        counts.setdefault(f"{name} {number}", []).append(len(seen))
pathlib.Path(__file__).with_name(f"counts.{strategy.process_index}.json").write_text(json.dumps(counts))
"""


@pytest.mark.parametrize("devices", ["1", "2"])
def test_each_worker_tokenizes_its_share(tmp_path: Path, devices: str) -> None:
    script = tmp_path / "encode.py"
    script.write_text(SCRIPT)
    logs = [tmp_path / f"{index}.log" for index in range(2)]
    codes = ProcessGroup(
        [sys.executable, str(script), devices], worker_environments(2), logs, forked=True
    ).wait(100)
    assert codes == [0, 0], "\n".join(log.read_text() for log in logs)
    counts = [json.loads((tmp_path / f"counts.{index}.json").read_text()) for index in range(2)]
    for task in ("text-classification", "token-classification"):
        assert [count[f"{task} 7"] for count in counts] == [[4, 4, 0], [3, 3, 3]]
        assert [count[f"{task} 1"] for count in counts] == [[1], [1]]
