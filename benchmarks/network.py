"""Training over a slow network: bytes, examples/s and accuracy of what saves bytes.

    python -m benchmarks.network --data FOLDER --model FOLDER

Two parts. `speed`: two workers on two hosts that a link of 50 Mbit/s joins (network namespaces; where these are not
permitted, a throttling proxy on loopback, which the results say). `accuracy`: whole runs over several seeds, as
`mirrored` of two logical devices in one process, which has the same arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.finetune import make_tiny
from benchmarks.hosts.link import Host, namespaces, proxied, why_not_permitted
from benchmarks.peers.create import Created, create_job
from benchmarks.peers.kinds import KINDS, started
from benchmarks.peers.runs import over_seeds
from tfdist.bench.process import Contestant

ROOT = Path(__file__).parents[1]
LOCAL_STEPS = 16
# Name -> options of the strategy.
CONTESTANTS: dict[str, dict[str, Any]] = {
    "none": {},
    "bfloat16": {"communication_dtype": "bfloat16"},
    "powersgd": {"gradient_compression": "powersgd"},
    "powersgd_bfloat16": {"gradient_compression": "powersgd", "communication_dtype": "bfloat16"},
    "topk": {"gradient_compression": "topk"},
    "sign": {"gradient_compression": "sign"},
    "local_steps": {"local_steps": LOCAL_STEPS},
    "slow_momentum": {"local_steps": LOCAL_STEPS, "outer_optimizer": "slow_momentum"},
}
# Contestants whose every step sends about as many bytes as there are weights: seconds each, so they get fewer steps.
FULL = ("none", "bfloat16")
# Name -> (how many times fewer bytes than `none`, how many times the examples/s)
AIMS = {
    "powersgd": (50.0, 10.0),
    "powersgd_bfloat16": (50.0, 10.0),
    "local_steps": (12.0, None),
    "slow_momentum": (12.0, None),
}
LIMIT_S = 1500
BATCH = 32


def link(rate_mbit: float, folder: Path, how: str) -> tuple[AbstractContextManager[list[Host]], str]:
    """Returns two hosts, and in words what joins them."""
    reason = "a proxy was asked for" if how == "proxy" else why_not_permitted()
    if reason is None:
        return namespaces(rate_mbit), f"network namespaces, veth, tc tbf at {rate_mbit:g} Mbit/s each way"
    return proxied(rate_mbit, folder), f"throttling proxy at {rate_mbit:g} Mbit/s each way ({reason})"


def workers(hosts: list[Host], job: Path, options: Mapping[str, Any], steps: int, folder: Path) -> list[Any]:
    """Trains on both hosts; returns what each worker wrote.

    Raises:
        RuntimeError: A worker failed; the text is the last line of its error.
    """
    environment = {**os.environ, "FINETUNE_OPTIONS": json.dumps(options), "TF_CPP_MIN_LOG_LEVEL": "3"}
    # Each worker has its share of the cores, as if it had a host of its own.
    share = str(max(1, (os.cpu_count() or 2) // 2))
    environment |= {"TF_NUM_INTRAOP_THREADS": share, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)}
    results, logs = ([folder / f"{kind}-{index}" for index in (0, 1)] for kind in ("result", "log"))
    running = []
    try:
        for host, result, log in zip(hosts, results, logs, strict=True):
            arguments = [str(job), host.counter, str(steps), str(result)]
            with log.open("w") as errors:
                running.append(
                    subprocess.Popen(
                        [*host.prefix, sys.executable, "-m", "benchmarks.hosts.worker", *arguments],
                        env=environment | {"TF_CONFIG": host.tf_config},
                        stdin=subprocess.DEVNULL,
                        stdout=errors,
                        stderr=errors,
                        cwd=ROOT,
                    )
                )
        codes = [process.wait(LIMIT_S) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for code, log in zip(codes, logs, strict=True):
        if code:
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            told = [line for line in lines if "Error" in line] or lines or [f"exit code {code}"]
            raise RuntimeError(told[-1][:300])
    return [json.loads(result.read_text()) for result in results]


def counted(found: list[Any], warm_up: int) -> dict[str, Any]:
    """Returns seconds and bytes of a step, means over the steps after the warm-up, and the examples/s.

    Means, since with local steps only each k-th step sends anything. Bytes are those that one host sends.
    """
    steps = [one["steps"][warm_up:] for one in found]
    num = len(steps[0])
    seconds = sum(step[0] for step in steps[0]) / num
    return {
        "bytes_per_step": max(sum(step[1] for step in one) for one in steps) / num,
        "step_s": seconds,
        "examples_per_s": BATCH / seconds,
        "steps": num,
        "parameters": found[0]["parameters"],
        "bytes_by_step": [step[1] for step in found[0]["steps"]],
    }


def speed(arguments: argparse.Namespace, created: Created, folder: Path) -> dict[str, Any]:
    """Trains each contestant over the slow link; returns figures, and ratios to no compression."""
    joined, how = link(arguments.rate_mbit, folder, arguments.link)
    results: dict[str, Any] = {"link": how, "contestants": {}, "ratios": {}}
    with joined as hosts:
        for name in arguments.contestants:
            period = arguments.options[name].get("local_steps", 1)
            warm_up = max(arguments.warm_up, period)
            steps = arguments.full_steps if name in FULL else -(-arguments.steps // period) * period
            options = {"timeout_s": 600, "self_check": "off", **arguments.options[name]}
            try:
                found = workers(hosts, created.job.folder, options, warm_up + steps, folder)
                results["contestants"][name] = counted(found, warm_up) | {"options": arguments.options[name]}
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                results["contestants"][name] = {"failed": str(error)}
            print(name, results["contestants"][name], flush=True)
    plain = results["contestants"].get("none", {})
    for name, one in results["contestants"].items():
        if "failed" in one or "failed" in plain or name == "none" or not plain:
            continue
        bytes_aim, speed_aim = AIMS.get(name, (None, None))
        results["ratios"][name] = {
            "fewer_bytes": plain["bytes_per_step"] / one["bytes_per_step"],
            "fewer_bytes_aim": bytes_aim,
            "examples_per_s": one["examples_per_s"] / plain["examples_per_s"],
            "examples_per_s_aim": speed_aim,
        }
    return results


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="package:chatterbot-corpus", help="as `tfdist train --data`")
    parser.add_argument("--model", default="minilm", help="as `tfdist train --model`: minilm or a folder")
    parser.add_argument("--task", default="text-classification", help="or token-classification")
    parser.add_argument("--part", choices=("speed", "accuracy", "all"), default="all")
    parser.add_argument(
        "--contestants", nargs="+", default=list(CONTESTANTS), help="of " + " ".join(CONTESTANTS)
    )
    parser.add_argument(
        "--options",
        type=json.loads,
        default={},
        metavar="JSON",
        help="NAME -> options of the strategy, or new ones",
    )
    parser.add_argument("--rate-mbit", type=float, default=50.0, help="of the link, each way")
    parser.add_argument("--link", choices=("auto", "proxy"), default="auto")
    parser.add_argument("--steps", type=int, default=48, help="counted steps of contestants that save bytes")
    parser.add_argument("--full-steps", type=int, default=5, help="counted steps of " + " and ".join(FULL))
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each in the accuracy part")
    parser.add_argument("--epochs", type=int, default=1, help="of a run")
    parser.add_argument("--max-steps", type=int, default=None, help="steps of each run of the accuracy part")
    parser.add_argument("--resume", action="store_true", help="keep the runs that the results file has")
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps of a tiny model, to see that it runs"
    )
    parser.add_argument("--output", type=Path, default=harness.RESULTS, help="folder of the JSON file")
    arguments = parser.parse_args(argv)
    arguments.options = CONTESTANTS | arguments.options
    return arguments


def accuracy(
    arguments: argparse.Namespace, created: Created, results: dict[str, Any], known: Mapping[str, Any]
) -> None:
    """Trains whole runs of each contestant and of one device over the seeds, and writes after each."""

    def start(name: str, seed: int, logits: Path) -> Contestant:
        mirrored = {"strategy": "mirrored", "devices": 2, "self_check": "off"}
        options = {} if name == "one_device" else mirrored | arguments.options[name]
        log = created.job.folder / f"{name}-{seed}"
        asked = [str(created.job.folder), str(seed), "float32", str(logits)]
        return started(KINDS["tfdist"], sys.executable, asked, log, FINETUNE_OPTIONS=json.dumps(options))

    def keep(runs: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
        results.update(runs=dict(runs), accuracy=scores)
        harness.write(arguments.output, "network", results)

    names = ["one_device", *arguments.contestants]
    over_seeds(names, start, created, arguments.seeds, known=known, keep=keep, limit=arguments.max_steps)


def table(results: Mapping[str, Any]) -> str:
    """Returns the results in Markdown."""
    found, scores = results.get("speed", {}).get("contestants", {}), results.get("accuracy", {})
    lines = [
        results.get("speed", {}).get("link", ""),
        "",
        "| | bytes a step and host | fewer bytes (aim) | examples/s | ratio (aim) | score, mean ± spread |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys([*scores, *found]):
        one, ratio = found.get(name, {}), results.get("speed", {}).get("ratios", {}).get(name)
        score = scores.get(name)
        told = f"{score['mean']:.2f} ± {score['spread']:.2f} ({score['seeds']})" if score else "–"
        if "failed" in one:
            lines.append(f"| {name} | failed: {one['failed'][:90]} | – | – | – | {told} |")
            continue
        cells = [
            f"{one['bytes_per_step']:,.0f}" if one else "–",
            "–",
            f"{one['examples_per_s']:.2f}" if one else "–",
            "–",
        ]
        if ratio:
            cells[1] = f"{ratio['fewer_bytes']:.1f} ({ratio['fewer_bytes_aim'] or '–'})"
            cells[3] = f"{ratio['examples_per_s']:.2f} ({ratio['examples_per_s_aim'] or '–'})"
        lines.append(f"| {name} | {' | '.join(cells)} | {told} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    # The workers and the network of a run that is ended from outside end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    path = arguments.output / "network.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.smoke:
            make_tiny(arguments, Path(temporary))
            arguments.contestants, arguments.full_steps = ["none"], 2
        created = create_job(
            Path(temporary) / "job",
            task_name=arguments.task,
            data=arguments.data,
            model=arguments.model,
            seeds=max(1, arguments.seeds),
            epochs=arguments.epochs,
        )
        results: dict[str, Any] = {key: before[key] for key in ("speed", "runs", "accuracy") if key in before}
        if arguments.part in ("speed", "all"):
            results["speed"] = speed(arguments, created, Path(temporary))
            harness.write(arguments.output, "network", results)
        if arguments.part in ("accuracy", "all"):
            accuracy(arguments, created, results, before.get("runs", {}) if arguments.resume else {})
    print(table(results))
    print(path)


if __name__ == "__main__":
    main()
