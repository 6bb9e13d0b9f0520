"""What a version of torch says of its operators and functions: a file of schemas, and a reader of it.

    python tests/support/aten_schemas.py torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl tests/graph/aten_2_11.txt.gz

A wheel (`pip download torch==2.11.0 --no-deps`) or a folder of installed packages will do; nothing of it is run. Each
line is one schema, as torch declares it, and how it is marked: `pointwise`, or `composite` for an operator that torch
composes of others on every device. Functions of torch that are written in Python are given with their parameters.
"""

from __future__ import annotations

import ast
import gzip
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

DECLARED = "torchgen/packaged/ATen/native/native_functions.yaml"
PYTHON = {"torch.functional": "torch/functional.py", "torch.nn.functional": "torch/nn/functional.py"}


@dataclass(frozen=True)
class Schema:
    """One overload of an operator, or one function: its arguments in order, name → type, and its marks."""

    name: str
    overload: str
    arguments: Mapping[str, str]
    marks: frozenset[str] = frozenset()

    @property
    def writes_out(self) -> bool:
        """Whether it only writes what another overload returns into a tensor that is given."""
        return bool(self.arguments) and "!" in [*self.arguments.values()][-1] and len(self.arguments) > 1


def parsed(line: str) -> Schema:
    """Read "add.Tensor(Tensor self, …) -> Tensor  # pointwise"."""
    declared, _, marks = line.partition("  # ")
    name, inside = re.match(r"([\w.]+)\((.*?)\)( ->|$)", declared).groups()[:2]
    function = name.startswith("torch.")
    operator, _, overload = (name, "", "") if function else name.partition(".")
    arguments = {}
    for argument in re.split(r", (?![^(\[]*[)\]])", inside):
        kind, _, named = argument.partition("=")[0].rpartition(" ")
        if named and named != "*":
            arguments[named] = kind
    return Schema(operator, overload, arguments, frozenset(marks.split()))


def read_lines(path: Path) -> list[str]:
    """Return the schemas of a file."""
    text = gzip.decompress(path.read_bytes()).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


def read(path: Path) -> dict[str, list[Schema]]:
    """Return the operators and functions of a file of schemas: name → overloads."""
    found = defaultdict(list)
    for line in read_lines(path):
        schema = parsed(line)
        found[schema.name].append(schema)
    return found


def operators(declared: str) -> Iterator[str]:
    """Yield a line for each declared operator."""
    for entry in yaml.safe_load(declared):
        if "Dimname" not in entry["func"] and not parsed(entry["func"]).writes_out:
            structured = entry.get("structured") or entry.get("structured_delegate")
            composite = not structured and entry.get("dispatch") is None
            marks = ["pointwise"] * ("pointwise" in str(entry.get("tags"))) + ["composite"] * composite
            yield entry["func"] + (f"  # {' '.join(marks)}" if marks else "")


def functions(home: str, source: str) -> Iterator[str]:
    """Yield a line for each function of a module."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield f"{home}.{node.name}({', '.join(f'Any {each.arg}' for each in node.args.args)})"


def lines(packages: Path | zipfile.Path) -> Iterable[str]:
    """Return the sorted lines of a version of torch."""
    found = set(operators((packages / DECLARED).read_text(encoding="utf-8")))
    for home, file in PYTHON.items():
        found |= set(functions(home, (packages / file).read_text(encoding="utf-8")))
    return sorted(found)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    text = [f"# {source.name}", *lines(zipfile.Path(source) if zipfile.is_zipfile(source) else source), ""]
    target.write_bytes(gzip.compress("\n".join(text).encode(), mtime=0))
