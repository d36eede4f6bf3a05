"""The register of parity cases: small functions that are run unchanged under every layout.

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

from tfdist.parity.topologies import LAYOUTS, Layout

if TYPE_CHECKING:
    from tfdist.parity.context import Context

CaseFunction = Callable[..., Mapping[str, Any]]

# Layouts on which the tests run a case; the page docs/parity.md has every case on all of WIDE.
NARROW = ("mirrored_2", "workers_2x1")
BASE = ("one_device", "mirrored_2", "workers_2x1")
MESHES = tuple(name for name, layout in LAYOUTS.items() if layout.mesh)
WIDE = ("one_device", "mirrored_2", "mirrored_4", "workers_2x1", "workers_3x1", "workers_2x2")


@dataclass(frozen=True)
class Case:
    """One row of the parity table.

    Attributes:
        name: Unique; `function[item]` where one function makes several cases.
        module: The module of the function.
        oracle: The invariant it belongs to, such as `"O2"`.
        title: The first line of the function's docstring.
        run: The function, taking the context only.
        layouts: Names of the layouts that it is measured on.
        tested: Those of tfdist's that the tests run too.
        limit_s: Seconds after which a run counts as hanging.
        quick: Whether `make check` runs it too.
        requires: A package that must be installed, if any.
    """

    name: str
    module: str
    oracle: str
    title: str
    run: Callable[[Context], Mapping[str, Any]]
    layouts: tuple[str, ...]
    tested: tuple[str, ...]
    limit_s: float
    quick: bool
    requires: str | None = None

    @property
    def installed(self) -> bool:
        """Whether the package that the case needs is there."""
        return self.requires is None or importlib.util.find_spec(self.requires) is not None


_CASES: dict[str, Case] = {}


def case(
    oracle: str,
    *,
    each: Iterable[str] | None = None,
    layouts: tuple[str, ...] = BASE,
    every_item: tuple[str, ...] = ("mirrored_2",),
    meshes: bool = False,
    measured: tuple[str, ...] | None = None,
    stock_workers: bool = False,
    limit_s: float = 120.0,
    quick: bool = False,
    requires: str | None = None,
) -> Callable[[CaseFunction], CaseFunction]:
    """Registers a function as a case, or as one case for each item.

    Args:
        oracle: The invariant that the case checks.
        each: Items that the function is called with after the context, one case for each.
        layouts: Names of the tfdist layouts that the tests run it on.
        every_item: Those of them on which the tests run every item; on the others the last, the hardest.
        meshes: Whether it is measured on meshes too. Not: those about collectives by hand, and inputs that have no
            layout (text, ragged, sparse), which the strategy refuses.
        measured: The only layouts that it is measured on, where it is not all of them.
        stock_workers: Whether stock MultiWorkerMirrored runs it too (nearly everything there crashes).
        limit_s: Seconds after which it counts as hanging.
        quick: Whether it belongs to the quick subset.
        requires: A package without which it is not run.

    Returns:
        The decorator.
    """
    stock = ("plain_keras", "stock_mirrored_2", *(("stock_workers_2x1",) if stock_workers else ()))
    unknown = set(layouts) - set(LAYOUTS)
    if unknown:
        raise ValueError(f"Unknown layouts {sorted(unknown)}; known are {sorted(LAYOUTS)}.")

    def register(function: CaseFunction) -> CaseFunction:
        title = (function.__doc__ or "").strip().splitlines()[0]
        items = [None] if each is None else list(each)
        for item in items:
            name = function.__name__ if item is None else f"{function.__name__}[{item}]"
            if name in _CASES:
                raise ValueError(f"Two cases are called {name!r}.")
            run = function if item is None else _with_item(function, item)
            possible = (*stock, *WIDE, *(MESHES if meshes else ()))
            tested = (*layouts, *(("mesh_2x2",) if meshes and (quick or layouts == WIDE) else ()))
            _CASES[name] = Case(
                name,
                function.__module__,
                oracle,
                title,
                run,
                tuple(one for one in possible if measured is None or one in (*stock, *measured)),
                tuple(one for one in tested if one in every_item or item == items[-1]),
                limit_s,
                quick,
                requires,
            )
        return function

    return register


def _with_item(function: CaseFunction, item: str) -> CaseFunction:
    return lambda context: function(context, item)


def all_cases() -> dict[str, Case]:
    """Returns every case by name: by the oracles' numbers, then by module, whichever was imported first."""
    package = importlib.import_module("tfdist.parity.cases")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_CASES.items(), key=lambda entry: (int(entry[1].oracle[1:]), entry[1].module)))


def cases_of(layout: Layout, *, names: Iterable[str] | None = None) -> dict[str, Case]:
    """Returns the cases that run on `layout`, all or only those named.

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
        if name in wanted and layout.name in case.layouts and case.installed
    }
