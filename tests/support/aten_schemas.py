"""What a version of torch says of the operators and functions that have rows: a file of schemas, and a reader of it.

    python tests/support/aten_schemas.py torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl > tests/graph/aten_2_11.txt

A wheel (`pip download torch==2.11.0 --no-deps`) or a folder of installed packages will do; nothing of it is run. Each
line is one schema, as torch declares it, and how it is marked: `pointwise`, or `composite` for an operator that torch
composes of others on every device. Functions of torch that are written in Python are given with their parameters.
"""

from __future__ import annotations

import ast
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from secateur.graph.functions import FUNCTIONS
from secateur.graph.operators import OPERATORS

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


def read(path: Path) -> dict[str, list[Schema]]:
    """Return the operators and functions of a file of schemas: name → overloads."""
    found = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            schema = parsed(line)
            found[schema.name].append(schema)
    return found


def wanted() -> set[str]:
    """Return the names of the operators that rows tell of, in-place forms included."""
    functions = {name.rpartition(".")[2] for name, row in FUNCTIONS.items() if row.arguments}
    return {form for name in {*OPERATORS, *functions} for form in (name, f"{name}_")}


def operators(declared: str) -> Iterator[str]:
    """Yield a line for each declared operator that is wanted."""
    names = wanted()
    for entry in yaml.safe_load(declared):
        name = entry["func"].partition("(")[0].partition(".")[0]
        if name in names and "Dimname" not in entry["func"] and not parsed(entry["func"]).writes_out:
            structured = entry.get("structured") or entry.get("structured_delegate")
            composite = not structured and entry.get("dispatch") is None
            marks = ["pointwise"] * ("pointwise" in str(entry.get("tags"))) + ["composite"] * composite
            yield entry["func"] + (f"  # {' '.join(marks)}" if marks else "")


def functions(home: str, source: str) -> Iterator[str]:
    """Yield a line for each function written in Python that has a row with arguments."""
    for node in ast.parse(source).body:
        name = f"{home}.{getattr(node, 'name', '')}"
        if isinstance(node, ast.FunctionDef) and name in FUNCTIONS and FUNCTIONS[name].arguments:
            parameters = ", ".join(f"Any {parameter.arg}" for parameter in node.args.args)
            yield f"{name}({parameters})"


def lines(packages: Path | zipfile.Path) -> Iterable[str]:
    """Return the sorted lines of a version of torch."""
    found = set(operators((packages / DECLARED).read_text(encoding="utf-8")))
    for home, file in PYTHON.items():
        found |= set(functions(home, (packages / file).read_text(encoding="utf-8")))
    return sorted(found)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    print(f"# {place.name}, by tests/support/aten_schemas.py")
    print("\n".join(lines(zipfile.Path(place) if zipfile.is_zipfile(place) else place)))
