"""A BERT that does not fit into one process's memory trains when a mesh splits it over four.

`python -m benchmarks.memory_limit [--smoke]`. Every process may have as much data memory (RLIMIT_DATA) as it has at
the start and `limit` more; one process with the whole model, one with no limit, and four of a mesh 1x4.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import harness
from tfdist.parity.processes import ProcessGroup, worker_environments

LIMIT_S = 580
STEPS = 3
# (hidden size, layers, limit in MiB above the start, processes of the mesh). Weights, gradients and two moments of the
# full size are 1.7 GB.
SIZES = {"full": (1024, 8, 2048, 4), "smoke": (64, 1, None, 2)}


def train(size: str, strategy_name: str, limited: bool) -> dict[str, Any]:
    """Trains for three steps in this process; returns losses and memory."""
    import keras
    import numpy as np

    import tfdist
    from tfdist.models import BertConfig, bert_classifier, build_bert

    hidden, layers, limit, parts = SIZES[size]
    options = {"mesh": {"model": parts}, "timeout_s": 400} if strategy_name == "mesh" else {}
    strategy = tfdist.create_strategy(strategy_name, **options)
    at_start = data_bytes()
    if limited and limit is not None:
        most = at_start + limit * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    config = BertConfig(
        vocab_size=8000,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        intermediate_size=4 * hidden,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = bert_classifier(build_bert(config), num_labels=2, dropout=0.0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-5), loss)
    generator = np.random.default_rng(0)
    ids = generator.integers(1, 8000, (4, 32), dtype=np.int32)
    inputs = {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": ids * 0 + 1}
    history = model.fit(inputs, generator.integers(0, 2, 4), batch_size=4, epochs=STEPS, verbose=0)
    return {
        "parameters": model.count_params(),
        "losses": [round(loss, 5) for loss in history.history["loss"]],
        "data_mib_above_start": round((data_bytes() - at_start) / 2**20),
    }


def data_bytes() -> int:
    """Returns the data memory of this process, in bytes; what RLIMIT_DATA limits."""
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def processes(size: str, strategy_name: str, limited: bool, count: int) -> dict[str, Any]:
    """Runs `train` in `count` processes; returns what the chief returned, or how the first one failed."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{index}.log" for index in range(count)]
        command = [sys.executable, "-m", "benchmarks.memory_limit", "--train", size, strategy_name]
        command += ["--limited"] * limited
        # A forked process has the memory of its imports from the start, which a measurement must not have.
        group = ProcessGroup(command, worker_environments(count), logs, forked=size == "smoke")
        codes = group.wait(LIMIT_S)
        lines = logs[0].read_text(errors="replace").splitlines()
        if codes == [0] * count:
            # TensorFlow may log after it, as the processes end.
            result = next(line for line in reversed(lines) if line.startswith('{"'))
            return json.loads(result) | {"processes": count}
        if None in codes:
            return {"failed": f"not done after {LIMIT_S} s", "processes": count}
        told = [line for line in lines if re.search("OOM|alloc|Memory|memory", line)] or lines
        return {"failed": f"exit codes {codes}: {told[-1][:200]}", "processes": count}


def measure(smoke: bool) -> dict[str, Any]:
    """Runs the three; returns losses and memory of each."""
    size = "smoke" if smoke else "full"
    *_, limit, parts = SIZES[size]
    results: dict[str, Any] = {"limit_mib_above_start": limit}
    for name, arguments in {
        "one process, limited": ("one_device", True, 1),
        "one process, no limit": ("one_device", False, 1),
        f"mesh 1x{parts} over {parts} processes, limited": ("mesh", True, parts),
    }.items():
        results[name] = processes(size, *arguments)
        print(name, results[name], flush=True)
    return results


def main() -> None:
    if sys.argv[1:2] == ["--train"]:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        print(json.dumps(train(sys.argv[2], sys.argv[3], "--limited" in sys.argv)))
        return
    arguments = harness.parse_arguments(__doc__.splitlines()[0])
    print(harness.write(arguments.output, "memory_limit", measure(arguments.smoke)))


if __name__ == "__main__":
    main()
