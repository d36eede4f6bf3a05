"""The shape of the code in numbers: `make shape` prints them, and the tests hold them to their bounds.

python tests/architecture/shape.py [FOLDER]
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = 6
# How a place asks which strategy is on, in place of calling the contract.
_ASKS = re.compile(r"strategy|batch|Strategy|Batch|OwnShare|DistributedValues|PerReplica|on_host")


def sources(root: Path = ROOT) -> list[Path]:
    """Returns the files of the package."""
    return sorted((root / "tfdist").rglob("*.py"))


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yields name and lines of each function of a file, its docstring counted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


def folder_sizes(paths: list[Path]) -> dict[Path, int]:
    """Returns how many files each folder holds."""
    sizes: dict[Path, int] = defaultdict(int)
    for path in paths:
        sizes[path.parent] += 1
    return dict(sizes)


def imports(paths: list[Path], root: Path) -> dict[str, set[str]]:
    """Returns, for each module of the package, those that it imports, inside functions too."""
    names = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths
    }
    graph: dict[str, set[str]] = {}
    for path in paths:
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                of_names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (of_names & names) or {node.module}
        graph[name] = (found & names) - {name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Returns the modules that import themselves by way of others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        pending = list(graph[start])
        while pending:
            if (name := pending.pop()) not in seen:
                seen.add(name)
                pending.extend(graph[name])
        return seen

    return sorted(name for name in graph if name in reached(name))


def _code_lines(path: Path) -> list[tuple[int, str]]:
    """Returns number and text of the lines that say something, white space folded."""
    lines = []
    in_docstring = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = " ".join(line.split())
        quotes = text.count('"""')
        if in_docstring or quotes:
            in_docstring = in_docstring != (quotes % 2 == 1)
            continue
        if len(text) > 4 and not text.startswith(("#", "import ", "from ", "@", "raise ", "return None")):
            lines.append((number, text))
    return lines


def repeats(paths: list[Path]) -> list[str]:
    """Returns pairs of places with `RUN` like lines of code, one after the other."""
    places: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path in paths:
        lines = _code_lines(path)
        for index in range(len(lines) - RUN + 1):
            window = lines[index : index + RUN]
            places[tuple(text for _, text in window)].append((path, window[0][0]))
    found: dict[tuple[Path, Path], tuple[int, int]] = {}
    for where in places.values():
        for (one, line), (other, other_line) in zip(where, where[1:], strict=False):
            found.setdefault((one, other), (line, other_line))
    return [f"{a.name}:{line} ~ {b.name}:{other}" for (a, b), (line, other) in found.items()]


def questions(path: Path) -> list[str]:
    """Returns the places of a file that ask which strategy is on, or of what kind a batch is."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            asks = node.func.id in ("isinstance", "hasattr", "getattr", "type")
            if asks and _ASKS.search(" ".join(ast.unparse(argument) for argument in node.args)):
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
            if node.func.id in ("needs_replica_batches", "on_mesh"):
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
        if isinstance(node, ast.Compare):
            text = ast.unparse(node)
            if re.search(r"num_replicas_in_sync|\.everywhere is|synchronized_by", text):
                found.append(f"{path.name}:{node.lineno} {text}")
    return found


def main() -> None:
    """Prints the numbers of the package under a folder, by default this one."""
    root = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    paths = sources(root)
    longest = max(paths, key=num_lines)
    name, size, where = max(((n, s, p) for p in paths for n, s in functions(p)), key=lambda found: found[1])
    folder, files = max(folder_sizes(paths).items(), key=lambda found: found[1])
    asked = [question for path in paths for question in questions(path)]
    print(f"files: {len(paths)}; lines: {sum(map(num_lines, paths))}")
    print(f"median file: {statistics.median(map(num_lines, paths)):g} lines (at most 90)")
    print(f"longest file: {longest.relative_to(root)}, {num_lines(longest)} lines (at most 300)")
    print(f"longest function: {name} in {where.relative_to(root)}, {size} lines (at most 60)")
    print(f"largest folder: {folder.relative_to(root)}, {files} files (at most 14)")
    print(f"modules in an import circle: {len(circles(imports(paths, root)))} (none)")
    print(f"places of {RUN} like lines: {len(repeats(paths))} (none)")
    for place in repeats(paths):
        print(f"    {place}")
    print(f"questions which strategy is on, or what kind of batch: {len(asked)}")
    for question in asked:
        print(f"    {question}")


if __name__ == "__main__":
    main()
