"""`tfdist doctor`: what this installation, host and cluster look like, and what is wrong with them."""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tfdist.cli.tensorflow_start import start_up_lines_hidden
from tfdist.cluster import detect_cluster
from tfdist.errors import ClusterError

_WHEELS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")
_LISTED = (*_WHEELS, "keras", "numpy", "keras-hub", "tensorflow-text", "libtpu")
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "TFDIST_DATA_THREADS")
# The libraries that TensorFlow loads to use a GPU: the driver's, those of CUDA (from the wheels `nvidia-*`), and NCCL.
_CUDA_LIBRARIES = ("cuda", "cudart", "cublas", "cudnn", "cufft", "cusolver", "cusparse", "nccl")
_TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")

Row = tuple[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: the command takes no arguments."""
    parser.epilog = "Exit code 0 if all is well, 1 if a problem is listed."


def run(args: argparse.Namespace) -> int:
    """Prints the tables and the problems; returns 1 if there are any."""
    console = Console(highlight=False)
    installed = installed_versions()
    problems = [*version_problems(installed), *environment_problems(os.environ)]
    _print_rows(console, "Versions", [("python", platform.python_version()), *installed.items()])
    _print_rows(console, "Cluster", _cluster_rows(os.environ, problems))
    _print_rows(console, "Threads", thread_rows(os.environ))
    _show_tensorflow(console, problems)
    problems += tpu_problems(installed, os.environ, [name for name in _TPU_DEVICES if Path(name).exists()])
    for problem in problems:
        console.print(f"[red]problem:[/red] {escape(problem)}", soft_wrap=True)
    console.print("[green]No problem found.[/green]" if not problems else f"Problems found: {len(problems)}")
    return 1 if problems else 0


def _show_tensorflow(console: Console, problems: list[str]) -> None:
    """Prints what only TensorFlow and Keras themselves can tell."""
    with start_up_lines_hidden():
        try:
            import keras
            import tensorflow as tf
        except Exception as error:  # a broken wheel raises anything
            problems.append(
                f"TensorFlow or Keras cannot be imported: {type(error).__name__}: {error}. Install them anew."
            )
            return
        devices = _device_rows(tf, problems)
    if keras.config.backend() != "tensorflow":
        problems.append(
            f"Keras runs on the backend {keras.config.backend()!r}; tfdist needs 'tensorflow'. "
            "Set KERAS_BACKEND=tensorflow, or correct ~/.keras/keras.json."
        )
    _print_rows(console, "Devices", devices)
    _print_patches(console)


def installed_versions() -> dict[str, str]:
    """Returns the installed versions of tfdist and of the packages that it needs, without importing any of them."""
    versions = {}
    for name in ("tfdist", *_LISTED):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def version_problems(installed: Mapping[str, str]) -> list[str]:
    """Returns what is wrong with the installed packages."""
    problems = []
    wheels = [name for name in _WHEELS if name in installed]
    if not wheels:
        problems.append(
            "No TensorFlow is installed. Install one: pip install 'tfdist[tensorflow]', [cuda] or [tpu]."
        )
    if len(wheels) > 1:
        problems.append(
            f"{' and '.join(wheels)} are installed together and overwrite each other's files. "
            f"Uninstall them all, then install one."
        )
    if "keras" in installed:
        problems += _range_problem("keras", installed["keras"])
    return problems


def _range_problem(name: str, version: str) -> list[str]:
    from packaging.requirements import Requirement

    for text in metadata.requires("tfdist") or []:
        needed = Requirement(text)
        if needed.name == name and not needed.specifier.contains(version, prereleases=True):
            return [
                f"{name} {version} is installed, but tfdist was made for {needed.specifier}. "
                f"Install that: pip install '{name}{needed.specifier}'."
            ]
    return []


def environment_problems(env: Mapping[str, str]) -> list[str]:
    """Returns which environment variables keep Keras 3 from running on TensorFlow."""
    problems = []
    backend = env.get("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        problems.append(f"KERAS_BACKEND is {backend!r}; tfdist needs 'tensorflow'. Unset it.")
    if env.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        problems.append(
            "TF_USE_LEGACY_KERAS makes tf.keras the old Keras 2, which tfdist does not know. Unset it."
        )
    return problems


def tpu_problems(installed: Mapping[str, str], env: Mapping[str, str], devices: Sequence[str]) -> list[str]:
    """Returns what keeps a TPU from being used.

    Args:
        installed: versions by package.
        env: environment variables.
        devices: TPU device files of this host.
    """
    has_wheel = "tensorflow-tpu" in installed
    signs = [*devices, *(name for name in ("TPU_NAME", "TPU_WORKER_ID") if name in env)]
    if signs and not has_wheel and any(name in installed for name in _WHEELS):
        return [
            f"This looks like a TPU host ({', '.join(signs)}), but the plain TensorFlow wheel carries no "
            "TPU kernels. Uninstall it, then pip install 'tfdist[tpu]'."
        ]
    if has_wheel and "libtpu" not in installed:
        return [
            "tensorflow-tpu is installed without libtpu. Install the libtpu version that it requires: pip "
            "check."
        ]
    return []


def gpu_problems(is_cuda_build: bool, num_gpus: int, has_driver: bool, missing: Iterable[str]) -> list[str]:
    """Returns why the GPUs of this host are not used; a host without a GPU has no problem."""
    if num_gpus or not has_driver:
        return []
    if not is_cuda_build:
        return [
            "There is an NVIDIA driver, but this TensorFlow is built without CUDA. pip install "
            "'tfdist[cuda]'."
        ]
    names = [f"lib{name}" for name in missing]
    lost = f" ({', '.join(names)} not found)" if names else ""
    return [
        f"There is an NVIDIA driver, but TensorFlow finds no GPU{lost}. pip install 'tfdist[cuda]', and see "
        "whether CUDA_VISIBLE_DEVICES hides it."
    ]


def thread_rows(env: Mapping[str, str]) -> list[Row]:
    """Returns the cores and the thread settings."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [("cores", str(cores)), *((name, env.get(name, "not set: all cores")) for name in _THREADS)]


def _cluster_rows(env: Mapping[str, str], problems: list[str]) -> list[Row]:
    try:
        cluster = detect_cluster(env)
    except ClusterError as error:
        problems.append(str(error))
        return [("found", "incomplete, see below")]
    if cluster is None:
        return [("found", "none: one process")]
    return [
        ("found", f"{cluster.num_processes} training processes, from {cluster.source}"),
        (
            "this process",
            f"{cluster.task_type} {cluster.task_index}" + (", chief" if cluster.is_chief else ""),
        ),
        *((job, ", ".join(addresses)) for job, addresses in cluster.jobs.items()),
    ]


def _device_rows(tf: Any, problems: list[str]) -> list[Row]:
    rows = []
    for kind in ("CPU", "GPU", "TPU"):
        devices = tf.config.list_physical_devices(kind)
        details = [tf.config.experimental.get_device_details(device) for device in devices if kind == "GPU"]
        names = [detail.get("device_name", "unknown") for detail in details]
        rows.append((kind, " ".join([str(len(devices)), *names])))
    is_cuda_build = bool(tf.sysconfig.get_build_info().get("is_cuda_build"))
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    rows.append(("built with CUDA", "yes" if is_cuda_build else "no"))
    has_driver = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
    missing = []
    if is_cuda_build and (has_driver or num_gpus):
        found = {name: find_library(name) for name in _CUDA_LIBRARIES}
        rows += [(f"lib{name}", place or "not found") for name, place in found.items()]
        missing = [name for name, place in found.items() if place is None]
    problems += gpu_problems(is_cuda_build, num_gpus, has_driver, missing)
    return rows


def find_library(name: str) -> str | None:
    """Returns where a CUDA library is, in a wheel `nvidia-*` or where the loader finds it; None if it is absent."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for path in sorted(Path(folder).glob(f"*/lib/lib{name}.so*")):
            return str(path)
    for suffix in ("", ".1", ".2", ".9", ".10", ".11", ".12", ".13"):
        try:
            ctypes.CDLL(f"lib{name}.so{suffix}")
        except OSError:
            continue
        return f"lib{name}.so{suffix}, by the system's loader"
    return None


def _print_rows(console: Console, title: str, rows: Iterable[Row]) -> None:
    table = Table("", Column(overflow="fold"), title=title, title_justify="left", show_header=False)
    for name, value in rows:
        table.add_row(escape(name), escape(value))
    console.print(table)


def _print_patches(console: Console) -> None:
    from tfdist._internals.patches import list_patches

    rows = [(patch.name, f"{patch.target}\n{patch.reason}\n{patch.upstream}") for patch in list_patches()]
    _print_rows(console, "Patches of Keras: what is replaced, what stock does wrong, upstream", rows)
