"""The programs that DTensor compiles for each device, and whether those of all processes fit together.

Each process compiles the whole program by itself, and a collective finds its partners by a number that DTensor counts
up. Where an operation has several results that must all be laid out anew, DTensor takes them in the order of their
addresses. The processes then number them differently. The collective of one result meets that of another, and the
training is wrong without an error (no upstream thread found).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

from tensorflow.python.eager import context

from tfdist._internals.processes.coordination import all_gather_json
from tfdist.errors import UnsupportedError
from tfdist.process import num_processes


def expanded_functions(known: Collection[str] = ()) -> dict[str, Any]:
    """Returns the definitions of this process's functions by name, as one device runs them, with collectives.

    Args:
        known: Names of functions that are left out.
    """
    runtime = context.context()
    found = {}
    for name in runtime.list_function_names():
        text = name.decode() if isinstance(name, bytes) else name
        if text.startswith("_func_") and text not in known:
            found[text] = runtime.get_function_def(text)
    return found


class Agreement:
    """Compares the collectives of the functions that were compiled since the last time."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def check(self, timeout_s: float) -> None:
        """Compares over the processes what is new; does nothing in one process, or if nothing is.

        Raises:
            UnsupportedError: A collective of one process is of something else than that of another.
            WorkerError: A process did not arrive in time.
        """
        if num_processes() == 1:
            return
        new = expanded_functions(self._seen)
        self._seen |= set(new)
        found: dict[str, tuple[str, str]] = {}
        for function in new.values():
            found |= collectives_of(function)
        if found:
            compare(all_gather_json("collectives of the mesh", found, timeout_s))


def compare(found: list[dict[str, tuple[str, str]]]) -> None:
    """Compares the collectives of all processes.

    Raises:
        UnsupportedError: A collective of one process is of something else than that of another.
    """
    names = {number: name for one in reversed(found) for number, (_, name) in one.items()}
    digests = [{number: digest for number, (digest, _) in one.items()} for one in found]
    crossed = [name for number, name in names.items() if len({one.get(number) for one in digests}) > 1]
    if crossed:
        raise UnsupportedError(
            f"DTensor has numbered {len(crossed)} collectives differently in the processes of this mesh, so that each "
            f"meets another one, and the results are wrong. The first is at {crossed[0]!r}, where one operation has "
            "several results (unstack, split, the gradient of stack). Make each result by an operation of its own "
            "there (slices), or train on a mesh in one process, or under 'multi_worker_mirrored'."
        )


def collectives_of(function: Any) -> dict[str, tuple[str, str]]:
    """Returns the collectives of a function definition: number -> a digest of what it is given, and its name.

    Names of other nodes do not count, since they need not be the same in all processes.
    """
    nodes = {node.name: node for node in function.node_def}
    arguments = {argument.name: index for index, argument in enumerate(function.signature.input_arg)}
    digests: dict[str, str] = {}

    def digest(name: str) -> str:
        if name in arguments:
            return f"argument {arguments[name]}"
        return digests[name]

    for name in _in_order(nodes):
        node = nodes[name]
        given = [f"{digest(_node(one))}:{one.partition(':')[2]}" for one in node.input if one[0] != "^"]
        value = node.attr["value"].SerializeToString(deterministic=True) if "value" in node.attr else b""
        text = "|".join([node.op, *given]).encode() + value
        digests[name] = hashlib.blake2b(text, digest_size=8).hexdigest()
    found = {}
    for name, node in nodes.items():
        if node.op.startswith("Collective"):
            keys = [digests[_node(one)] for one in node.input[1:4]]
            found["/".join(keys)] = digests[name], name
    return found


def _in_order(nodes: Mapping[str, Any]) -> list[str]:
    """Returns the names of the nodes, each after those that give it something."""
    order: list[str] = []
    done: set[str] = set()
    pending = list(nodes)
    while pending:
        name = pending[-1]
        missing = [one for one in map(_node, nodes[name].input) if one in nodes and one not in done]
        if name in done or not missing:
            pending.pop()
            if name not in done:
                done.add(name)
                order.append(name)
        else:
            pending.extend(missing)
    return order


def _node(name: str) -> str:
    return name.lstrip("^").partition(":")[0]
