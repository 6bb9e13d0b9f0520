"""Granularities: single weights, blocks and patterns of weights, channels, heads, layers.

Each granularity is one module of this package; importing the package registers all of them.
"""

from secateur.core.discovery import import_modules
from secateur.core.errors import InputError
from secateur.sparsity.granularity.base import GRANULARITIES, Granularity, granularity, kinds_where

import_modules(__name__, __path__)

__all__ = [
    "GRANULARITIES",
    "Granularity",
    "granularity",
    "kind_of",
    "kinds_where",
    "parse",
]


ELSEWHERE = {
    **dict.fromkeys(("unstructured", "fine", "fine-grained", "element", "parameter"), "weight"),
    **dict.fromkeys(("structured", "filter", "neuron", "unit", "ln_structured", "out_channel"), "channel"),
    **dict.fromkeys(("n:m", "semi-structured", "semistructured"), "2:4, or another pattern N:M"),
    **dict.fromkeys(("depth", "block-wise", "residual", "residual block"), "layer"),
}
"""Names of granularities in other tools, singular → the words for them here."""


def kind_of(text: str) -> type[Granularity]:
    """Return the class of a granularity from its kind, such as "n:m", or its text, such as "2:4"."""
    return GRANULARITIES[text] if text in GRANULARITIES else type(parse(text))


def parse(text: str) -> Granularity:
    """Read a granularity: "weight", "block:16x16", a pattern such as "2:4", "channel", "head" or "layer".

    Raises `InputError` for any other text, and for invalid sizes.

    >>> parse("2:4").amount
    0.5
    """
    for each in GRANULARITIES.values():
        found = each.read(str(text))
        if found is not None:
            return found
    if known := ELSEWHERE.get(str(text).lower().removesuffix("s")):
        raise InputError(f"There is no granularity '{text}': here it is {known}.")
    ordered = sorted(
        GRANULARITIES.values(), key=lambda each: (each.written != each.kind, each.removes, each.kind)
    )
    *others, last = (each.written for each in ordered)
    raise InputError(f"There is no granularity '{text}': choose {', '.join(others)}, or {last}.")
