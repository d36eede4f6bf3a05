"""The register of parity cases: small functions that are run unchanged under every topology.

A case gets a `Context`, trains or evaluates a tiny model inside `context.scope()`, and returns a dict of
named arrays. The part of a name before the first `/` says how it is compared; see `tfdist.parity.comparison`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfdist.parity.topologies import PLAIN, TOPOLOGIES, Topology

if TYPE_CHECKING:
    from tfdist.parity.context import Context

CaseFunction = Callable[..., Mapping[str, Any]]

# The families of cases, and what each shows.
FAMILIES = {
    "steps": "One step on a global batch is one step on one device",
    "inputs": "Inputs of every structure and type",
    "uneven": "Uneven batches and empty replicas",
    "losses": "Weights, masks and reductions of losses",
    "contracts": "Losses and steps that the user wrote",
    "whole batch": "Losses that are no mean over rows",
    "own steps": "Steps of the user's own: clipping, SAM, contrastive losses, GAN, queues",
    "state": "The aggregation that a variable of a layer or metric names",
    "penalties": "Regularisers, weight decay and constraints count once",
    "optimizers": "Optimizers",
    "clipping": "Clipping acts on the global gradient",
    "accumulation": "Gradient accumulation",
    "updates": "Updates that the user wrote",
    "loss scaling": "Loss scaling",
    "slices": "Rows of a table that all replicas have",
    "averages": "Exponential moving average of the weights",
    "layers": "Layers",
    "recurrent": "Recurrent layers",
    "models": "Whole models: convolutional, with several inputs, autoencoders",
    "transformers": "Attention, BERT and KerasHub's backbones",
    "normalization": "Batch normalization",
    "randomness": "Random numbers",
    "metrics": "Metrics and losses from summed state",
    "evaluation": "Evaluation",
    "predictions": "Predictions: order and count",
    "rows": "Every row once",
    "executions": "Several steps in one execution",
    "compilation": "Compilation, traces, collectives in a step, and Keras's global state",
    "precision": "Mixed precision",
    "checkpoints": "Checkpoints",
    "resume": "State to resume from",
    "callbacks": "Callbacks decide together",
    "variables": "What a script reads of a variable",
}

# Topologies on which the tests run a case. The page docs/parity.md has every case on all of WIDE.
NARROW = ("mirrored_2", "workers_2x1")
WIDE = ("mirrored_2", "mirrored_4", "workers_2x1", "workers_3x1", "workers_2x2")
ONE_DEVICE = "one_device"
MESH = "mesh_2x2"
MESHES = tuple(name for name, topology in TOPOLOGIES.items() if topology.strategy == "mesh")

# For cases that a mesh cannot run: text, ragged and sparse inputs have no layout, DTensor has no operation for
# functions of Python, and some cases count the collectives of replicas.
NO_MESH = ("mesh",)


@dataclass(frozen=True)
class Case:
    """One row of the parity table.

    Attributes:
        name: A unique name; `function[item]` if one function makes several cases.
        module: The module of the function.
        family: The family of the case, a key of `FAMILIES`.
        title: The first line of the function's docstring.
        run: The function, taking the context only.
        tested: Names of the topologies that the tests run it on.
        stands_for_family: Whether it is enough for its family on topologies beside `mirrored_2`.
        refused_by: Public names of the strategies that refuse what it does.
        limit_s: Seconds after which a run counts as hanging.
        quick: Whether `make check` runs it, and whether `one_device` is compared with plain Keras on it.
        stock_workers: Whether stock MultiWorkerMirrored runs it too; nearly every case crashes there.
        requires: A package that must be installed, or None.
    """

    name: str
    module: str
    family: str
    title: str
    run: Callable[[Context], Mapping[str, Any]]
    tested: tuple[str, ...]
    stands_for_family: bool
    refused_by: tuple[str, ...]
    limit_s: float
    quick: bool
    stock_workers: bool
    requires: str | None

    @property
    def installed(self) -> bool:
        """Whether the package that the case needs is there."""
        return self.requires is None or importlib.util.find_spec(self.requires) is not None

    def runs_on(self, topology: Topology) -> bool:
        """Whether the case is measured on a topology."""
        if topology.strategy == PLAIN:
            return True
        if topology.stock:
            return topology.num_processes == 1 or self.stock_workers
        # On one device no patch acts, and so a few cases are enough to show that it is plain Keras.
        return self.quick if topology.bit_equal else topology.strategy not in self.refused_by

    @property
    def topologies(self) -> tuple[str, ...]:
        """Names of the topologies that it is measured on."""
        return tuple(name for name, topology in TOPOLOGIES.items() if self.runs_on(topology))


_CASES: dict[str, Case] = {}


def case(
    family: str,
    *,
    each: Iterable[str] | None = None,
    on: tuple[str, ...] = NARROW,
    every_item: tuple[str, ...] = ("mirrored_2",),
    stands_for_family: bool = False,
    refused_by: tuple[str, ...] = (),
    stock_workers: bool = False,
    limit_s: float = 120.0,
    quick: bool = False,
    requires: str | None = None,
) -> Callable[[CaseFunction], CaseFunction]:
    """Registers a function as a case, or as one case for each item.

    Args:
        family: The family of the case, a key of `FAMILIES`.
        each: Items that the function is called with after the context, one case for each.
        on: Names of the topologies that the tests run it on. A case that is quick, or on WIDE, also runs on a mesh.
        every_item: Those on which the tests run every item; on the others they run the last one, the hardest.
        stands_for_family: Whether it, or its last item, is enough for its family beside `mirrored_2`, on meshes too.
        refused_by: Public names of the strategies that refuse what it does.
        stock_workers: Whether stock MultiWorkerMirrored runs it too.
        limit_s: Seconds after which it counts as hanging.
        quick: Whether it belongs to the quick cases.
        requires: A package without which it is not run.

    Raises:
        ValueError: A topology or the family is unknown, or two cases have one name.
    """
    unknown = set(on) - set(TOPOLOGIES)
    if unknown or family not in FAMILIES:
        raise ValueError(f"Unknown topologies {sorted(unknown)} or family {family!r}.")
    meshes = MESHES if stands_for_family else (MESH,) if quick or on == WIDE else ()
    tested = (*(() if not quick else (ONE_DEVICE,)), *on, *(() if "mesh" in refused_by else meshes))

    def register(function: CaseFunction) -> CaseFunction:
        items = [None] if each is None else list(each)
        for item in items:
            name = function.__name__ if item is None else f"{function.__name__}[{item}]"
            if name in _CASES:
                raise ValueError(f"Two cases are called {name!r}.")
            last = item == items[-1]
            _CASES[name] = Case(
                name,
                function.__module__,
                family,
                (function.__doc__ or "").strip().splitlines()[0],
                function if item is None else _with_item(function, item),
                tuple(dict.fromkeys(one for one in tested if last or one in every_item)),
                last and stands_for_family,
                refused_by,
                limit_s,
                quick,
                stock_workers,
                requires,
            )
        return function

    return register


def _with_item(function: CaseFunction, item: str) -> CaseFunction:
    return lambda context: function(context, item)


def all_cases() -> dict[str, Case]:
    """Returns every case by name, sorted by family and then by module, so that the order of imports does not count."""
    package = importlib.import_module("tfdist.parity.cases")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    order = list(FAMILIES)
    return dict(sorted(_CASES.items(), key=lambda entry: (order.index(entry[1].family), entry[1].module)))


def cases_of(topology: Topology, *, names: Iterable[str] | None = None) -> dict[str, Case]:
    """Returns the cases that run on `topology`, all or only those named.

    Raises:
        ValueError: A name is not registered.
    """
    cases = all_cases()
    wanted = set(cases) if names is None else set(names)
    if wanted - set(cases):
        raise ValueError(f"Unknown cases {sorted(wanted - set(cases))}; list them with --list.")
    return {
        name: case
        for name, case in cases.items()
        if name in wanted and case.runs_on(topology) and case.installed
    }
