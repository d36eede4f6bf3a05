"""A trace of one training step of two workers, a core each: sums of gradients beside the backward pass, as a picture.

`python -m benchmarks.overlap [--smoke] [--output FILE]`. The model is that of `benchmarks.communication`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.communication import _dataset, _model

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "overlap.svg"
_ROWS = {
    "products": ("MatMul", "#4c78a8"),
    "sums": ("CollectiveReduce", "#e45756"),
    "gathers": ("CollectiveGather", "#f2a33a"),
}
_WIDTH, _LEFT, _HEIGHT = 900, 90, 26


class Bar(NamedTuple):
    """One operation: when it began and how long it took, in milliseconds."""

    begin: float
    length: float


def work(smoke: bool, folder: Path) -> None:
    """What each of the two workers does; the first one is traced."""
    index = int(json.loads(os.environ["TF_CONFIG"])["task"]["index"])
    os.sched_setaffinity(0, {index % os.cpu_count()})
    import tensorflow as tf

    import tfdist

    strategy = tfdist.create_strategy("multi_worker_mirrored", self_check="off")
    with strategy.scope():
        model = _model(smoke)
    model.fit(_dataset(32, 4), verbose=0)
    if index == 0:
        tf.profiler.experimental.start(str(folder))
    model.fit(_dataset(32, 2), verbose=0)
    if index == 0:
        tf.profiler.experimental.stop()


def read(folder: Path) -> dict[str, list[Bar]]:
    """Returns the bars of the last step in a trace."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(next(folder.rglob("*.xplane.pb")).read_bytes())
    plane = next(plane for plane in space.planes if plane.name == "/host:CPU")
    found: dict[str, list[Bar]] = {row: [] for row in _ROWS}
    for line in plane.lines:
        for event in line.events:
            name, _, operation = plane.event_metadata[event.metadata_id].name.partition(":")
            bar = Bar(line.timestamp_ns / 1e6 + event.offset_ps / 1e9, event.duration_ps / 1e9)
            for row, (kind, _) in _ROWS.items():
                if name and kind in operation and " " not in operation:
                    found[row].append(bar)
    # The last step begins after the longest pause between two products, which is where the one before it updates.
    starts = sorted(bar.begin for bar in found["products"])
    _, first = max((later - sooner, later) for sooner, later in zip(starts, starts[1:], strict=False))
    last = max(bar.begin + bar.length for bar in found["products"])
    # What the end of an epoch sums is no gradient; it comes later than the gathers of tables.
    end = max([last, *(bar.begin + bar.length for bar in found["gathers"])])
    return {row: sorted(bar for bar in bars if first <= bar.begin <= end) for row, bars in found.items()}


def picture(rows: dict[str, list[Bar]]) -> str:
    """Returns an SVG: a row for each kind of operation, over time."""
    begin = min(bar.begin for bars in rows.values() for bar in bars)
    end = max(bar.begin + bar.length for bars in rows.values() for bar in bars)
    scale = (_WIDTH - _LEFT - 10) / (end - begin)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT * len(rows) + 30}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, (row, bars) in enumerate(rows.items()):
        top = 6 + number * _HEIGHT
        parts.append(f'<text x="6" y="{top + 15}">{row}</text>')
        for bar in bars:
            parts.append(
                f'<rect x="{_LEFT + (bar.begin - begin) * scale:.1f}" y="{top}" height="20" '
                f'width="{max(bar.length * scale, 0.5):.1f}" fill="{_ROWS[row][1]}" fill-opacity="0.8"/>'
            )
    step = 10 ** (len(str(int(end - begin))) - 1)
    for mark in range(0, int(end - begin) + 1, step):
        parts.append(f'<text x="{_LEFT + mark * scale:.1f}" y="{_HEIGHT * len(rows) + 22}">{mark} ms</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--output", type=Path, default=PICTURE, help="the picture")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.smoke, arguments.worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tfdist", "launch", "--num-workers", "2", "-m", "benchmarks.overlap"]
        command += ["--worker", folder, *["--smoke"] * arguments.smoke]
        subprocess.run(command, check=True, timeout=600)
        rows = read(Path(folder))
    last = max(bar.begin for bar in rows["products"])
    before = sum(bar.begin < last for bar in rows["sums"])
    print(f"{before} of {len(rows['sums'])} sums began before the last product of the backward pass did")
    arguments.output.write_text(picture(rows))
    print(arguments.output)


if __name__ == "__main__":
    main()
