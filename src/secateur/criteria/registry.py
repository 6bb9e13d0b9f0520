"""The registry of criteria: a criterion is its formula plus what the formula needs.

A criterion is a function whose positional parameters name the quantities it needs (`weight`, `generator`, …) and
whose keyword-only parameters are its options, with their defaults. It returns a tensor of the weight's shape in
which lower means less important. Registering it is all it takes for the library, the command line, the
documentation and the shared tests to know it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from secateur.errors import InputError
from secateur.registry import Registry

Score = TypeVar("Score", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class Criterion:
    """A named importance score: `score(*needs, **options)` → tensor of the weight's shape, lowest goes first.

    `unit` is the formula for units, and `per` says what of a unit it is given (see `secateur.importance.VIEWS`): with
    "weight" it is called like `score`, for what each weight adds to the score of a unit it belongs to. `moment` says
    when in a network's life the score has a meaning: "before", "after" or "during" training, or "any" time.
    """

    name: str
    score: Callable[..., Tensor]
    unit: Callable[..., Tensor]
    per: str
    moment: str
    needs: tuple[str, ...]
    options: Mapping[str, Any]
    granularities: frozenset[str]
    paper: str

    @property
    def summary(self) -> str:
        """First line of the formula's docstring."""
        return (inspect.getdoc(self.score) or "").partition("\n")[0]

    def check(self, granularity: str, options: Mapping[str, Any]) -> None:
        """Raise `InputError` unless the criterion has a meaning at `granularity` and knows all `options`."""
        if granularity not in self.granularities:
            known = ", ".join(sorted(self.granularities))
            raise InputError(
                f"The criterion {self.name} scores {known}, not {granularity}: choose another pair."
            )
        for option in options:
            if option not in self.options:
                known = ", ".join(self.options) or "none"
                raise InputError(
                    f"The criterion {self.name} has no option '{option}': its options are {known}."
                )


CRITERIA: Registry[Criterion] = Registry("criterion")


def criterion(
    name: str,
    *,
    granularities: Collection[str],
    paper: str,
    unit: Callable[..., Tensor] | None = None,
    per: str = "weight",
    moment: str = "any",
) -> Callable[[Score], Score]:
    """Register the decorated formula as a criterion called `name`.

    `unit` is the formula for units, where it is another than for single weights, and `per` what it is given.
    """

    def register(score: Score) -> Score:
        parameters = inspect.signature(score).parameters.values()
        needs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        CRITERIA.add(
            name,
            Criterion(
                name, score, unit or score, per, moment, needs, options, frozenset(granularities), paper
            ),
        )
        return score

    return register
