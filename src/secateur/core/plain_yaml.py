"""Plain data in YAML: recipes, studies, and the values of options.

Numbers are read as in YAML 1.2: `1e-4` is a number, `2024-13-45` and `1:30` are words. A repeated key, a value that
contains itself, and one that aliases blow up to more than `MOST_VALUES` parts are refused.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import yaml

from secateur.core.errors import InputError, reason_of

MOST_VALUES = 1_000_000
"""Largest number of values in one document, those behind aliases counted as often as they stand."""
INT, FLOAT, TIMESTAMP = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp"
SCALARS = (str, int, float, bool, type(None))
NOT_PLAIN = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""Exceptions of constructors of YAML for scalars that are not of their tag."""
NUMBER_FORMS = {
    INT: r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+",
    FLOAT: r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}
"""Tag → form of a plain number."""


class PlainLoader(yaml.SafeLoader):
    """Loader of plain data with the numbers of YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping. Raises an error of YAML for a repeated key."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, count in keys.items() if count > 1]:
            raise yaml.MarkedYAMLError(problem=f"{twice[0]} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _int(loader: yaml.SafeLoader, node: Any) -> int:
    """Build a whole number: decimal, unless 0x or 0o begins it."""
    text = str(loader.construct_scalar(node)).replace("_", "")
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


def _float(loader: yaml.SafeLoader, node: Any) -> float:
    """Build a number."""
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


class PlainDumper(yaml.SafeDumper):
    """Writer of documents for `PlainLoader`, which quotes the texts that look like its numbers."""


for _kind in (PlainLoader, PlainDumper):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in resolvers if tag not in (INT, FLOAT, TIMESTAMP)]
        for first, resolvers in _kind.yaml_implicit_resolvers.items()
    }
    for _tag, _form in NUMBER_FORMS.items():
        _kind.add_implicit_resolver(_tag, re.compile(f"(?:{_form})$"), list("-+.0123456789"))
PlainLoader.add_constructor(INT, _int)
PlainLoader.add_constructor(FLOAT, _float)


def parse_yaml(text: str, source: str) -> Any:
    """Return the plain data of a YAML document.

    Raises `InputError`, with the line if it is known, for a document that is no YAML or holds no plain data; `source`
    is its name in the sentence.

    >>> parse_yaml("strength: 1e-4", "the recipe")
    {'strength': 0.0001}
    """
    try:
        value = yaml.load(text, PlainLoader)
        _check_plain(value)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise InputError(f"{source} is not valid YAML{where}: {problem}.") from None
    except NOT_PLAIN as error:
        raise InputError(f"{source} holds no plain data ({reason_of(error)}).") from None
    return value


def write_yaml(value: Any) -> str:
    """Return the YAML document of plain data, which `parse_yaml` reads back."""
    return yaml.dump(value, Dumper=PlainDumper, sort_keys=False, allow_unicode=True, width=110)


def word(text: str) -> Any:
    """Return the value that a word of the command line stands for; one that is no YAML is a text.

    >>> word("1e-4"), word("true"), word("[")
    (0.0001, True, '[')
    """
    try:
        return parse_yaml(text, "the option")
    except InputError:
        return text


def _check_plain(value: Any) -> None:
    """Raise `ValueError` for a value that contains itself, has too many parts, or parts that JSON has no form for."""
    counts: dict[int, int] = {}

    def count(part: Any) -> int:
        if isinstance(part, SCALARS):
            return 1
        if not isinstance(part, dict | list):
            raise ValueError(f"a {type(part).__name__} is neither text nor number, list nor mapping")
        if id(part) not in counts:
            counts[id(part)] = (
                MOST_VALUES + 1
            )  # as long as it is being counted: one that contains itself has no end
            counts[id(part)] = 1 + sum(
                map(count, [*part, *part.values()] if isinstance(part, dict) else part)
            )
        return counts[id(part)]

    if count(value) > MOST_VALUES:
        raise ValueError(f"a value contains itself, or there are more than {MOST_VALUES:,}")
