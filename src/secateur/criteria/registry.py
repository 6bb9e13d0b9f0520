"""The registry of criteria: formulas and the quantities they need.

A criterion is a function whose positional parameters name the quantities it needs (`weight`, `generator`, …) and
whose keyword-only parameters are its options, with their defaults. It returns a tensor of the weight's shape; lower
scores are less important. The library, the command line, the documentation and the shared tests read this registry.

A quantity measured on the model is a function of the same form, registered by `quantity`; the criteria that name it
have its options too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.options import check_options, options_of
from secateur.core.registry import Registry
from secateur.sparsity.granularity import kind_of, kinds_where

Score = TypeVar("Score", bound=Callable[..., Tensor])
Measure = TypeVar("Measure", bound=Callable[..., dict[str, Tensor]])


@dataclass(frozen=True)
class Quantity:
    """A quantity measured on a model: `measure(*needs, **options)` → tensors by parameter name.

    `needs` are fields of `quantities.QuantitySource`, and `called` is its name in messages.
    """

    measure: Callable[..., dict[str, Tensor]]
    called: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields of `QuantitySource` it is measured on."""
        return parameters_of(self.measure)[0]

    @property
    def options(self) -> dict[str, Any]:
        """Options of the measurement, with their defaults."""
        return options_of(self.measure)


QUANTITIES: Registry[Quantity] = Registry("measured quantity")

OBSERVED: Registry[str] = Registry("observation of units")
"""Parameters of formulas for units that views observe in a forward or backward pass: name → name in messages."""


@dataclass(frozen=True)
class Criterion:
    """A named importance score: `score(*needs, **options)` → tensor of the weight's shape, the lowest removed first.

    `elements` are the scored elements: "weights", "units" ("channels" or "heads" alone for some), "layers". `unit` is
    the formula for units, and `per` the view of a unit it is applied to (see `secateur.importance.VIEWS`): with
    "weight" it has the signature of `score`, for the contribution of each weight to the score of its unit. `moment` is
    the stage of training at which the score is meaningful: "before", "after" or "during" training, or "any" time.

    `own` holds the formula's options, `measuring` the changed defaults of the measured quantities' options. `rounds`
    (default 1) is the default number of rounds of a cut of weights, each with new scores of the remaining weights, or
    of all weights if it `regrows`.
    """

    name: str
    score: Callable[..., Tensor]
    unit: Callable[..., Tensor]
    per: str
    moment: str
    needs: tuple[str, ...]
    own: Mapping[str, Any]
    elements: frozenset[str]
    paper: str
    rounds: int = 1
    regrows: bool = False
    measuring: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the formula's docstring."""
        return (inspect.getdoc(self.score) or "").partition("\n")[0]

    @property
    def cost(self) -> str:
        """Cost of the score: the lines "Cost: …" of the docstrings of the formula and its quantities."""
        documented = (self.score, *(QUANTITIES[each].measure for each in self.measures))
        lines = [line for each in documented for line in (inspect.getdoc(each) or "").splitlines()]
        found = [line.removeprefix("Cost: ").rstrip(".") for line in lines if line.startswith("Cost: ")]
        return "; ".join(found) or "a look at the weights"

    @property
    def measures(self) -> tuple[str, ...]:
        """The needs that are quantities measured on the model."""
        return tuple(need for need in self.needs if need in QUANTITIES)

    @property
    def needs_data(self) -> bool:
        """Whether the score needs calibration data."""
        return any(need in OBSERVED for need in self.needs) or any(
            "data" in QUANTITIES[each].needs for each in self.measures
        )

    @property
    def needs_labels(self) -> bool:
        """Whether the score needs the loss or its gradient, and so labels."""
        return self.needs_data and not set(self.needs) & {
            "maps",
            "readers",
            "input_norm",
            "inverse_curvature",
        }

    @property
    def options(self) -> dict[str, Any]:
        """The options of the formula and of its measured quantities, with their defaults."""
        measured = [QUANTITIES[each].options for each in self.measures]
        defaults = {name: default for options in measured for name, default in options.items()}
        return {**defaults, **self.measuring, **self.own}

    @property
    def granularities(self) -> frozenset[str]:
        """The kinds of granularity with elements it scores."""
        return frozenset(kinds_where(lambda each: bool(each.elements & self.elements)))

    def check(self, granularity: str, options: Mapping[str, Any]) -> None:
        """Raise `InputError` unless the criterion scores a granularity, a text or kind, and has the `options`."""
        if not kind_of(granularity).elements & self.elements:
            known = ", ".join(sorted(self.granularities))
            raise InputError(
                f"The criterion {self.name} scores {known}, not {granularity}: choose another pair."
            )
        measures = (QUANTITIES[each].measure for each in self.measures)
        check_options(f"the criterion {self.name}", options, *measures, self.score)


BY_L1, BY_L2 = "magnitude with norm l1 (--norm l1)", "magnitude with norm l2 (--norm l2)"
OTHER_TOOLS = {
    **dict.fromkeys(
        ("l1", "l1norm", "magnitudel1", "l1magnitude", "abs", "weight", "weights", "level"), BY_L1
    ),
    **dict.fromkeys(("l1unstructured", "l1structured", "l1filter", "l1normpruner", "levelpruner"), BY_L1),
    **dict.fromkeys(("l2", "l2norm", "magnitudel2", "l2magnitude", "l2structured", "l2filter"), BY_L2),
    **dict.fromkeys(("l2normpruner", "groupnorm", "groupnormimportance", "magnitudeimportance"), BY_L2),
    "lnstructured": "magnitude with norm l1 or l2 (--norm l1) and granularity channel",
    "globalunstructured": "magnitude with scope global",
    "randomunstructured": "random",
    "randomstructured": "random with granularity channel",
    "randomimportance": "random",
    **dict.fromkeys(("linfnorm", "maxnorm", "max", "inf"), "linf"),
    **dict.fromkeys(
        ("bn", "bnscale", "slimming", "slim", "networkslimming", "slimpruner", "gamma"), "bn_scale"
    ),
    **dict.fromkeys(("geometricmedian", "fpgmpruner", "fpgmimportance"), "fpgm"),
    **dict.fromkeys(("apozrank", "activationapozrankpruner"), "apoz"),
    **dict.fromkeys(("taylorfo", "taylorfoweight", "taylorfoweightpruner", "taylorimportance"), "taylor"),
    **dict.fromkeys(("hessian", "hessianimportance", "obdiag", "optimalbraindamage"), "obd"),
    **dict.fromkeys(("optimalbrainsurgeon", "sparsegpt", "obc"), "obs"),
    **dict.fromkeys(("lampimportance", "lampscore"), "lamp"),
}
"""Names of criteria in torch, Torch-Pruning and NNI, without "_" and "-" → the words for them here."""

CRITERIA: Registry[Criterion] = Registry("criterion", OTHER_TOOLS)


def parameters_of(function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the positional parameters of a formula or a measurement, and its options with their defaults.

    >>> parameters_of(lambda weight, *, norm="l1": weight)
    (('weight',), {'norm': 'l1'})
    """
    parameters = inspect.signature(function).parameters.values()
    return (
        tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY),
        options_of(function),
    )


def quantity(name: str, called: str) -> Callable[[Measure], Measure]:
    """Register the decorated measurement as the quantity `name`, with the name `called` in messages."""

    def register(measure: Measure) -> Measure:
        QUANTITIES.add(name, Quantity(measure, called))
        return measure

    return register


def criterion(
    name: str,
    *,
    elements: Collection[str],
    paper: str,
    unit: Callable[..., Tensor] | None = None,
    per: str = "weight",
    moment: str = "any",
    rounds: int = 1,
    regrows: bool = False,
    measuring: Mapping[str, Any] | None = None,
) -> Callable[[Score], Score]:
    """Register the decorated formula as a criterion called `name`, for `elements` such as {"weights", "units"}.

    `unit` is the formula for units, by default that for single weights, and `per` (default "weight") the view it is
    applied to. `measuring` holds changed defaults of the measured quantities' options. For `moment` (default "any"),
    `rounds` (default 1) and `regrows` see `Criterion`.
    """

    def register(score: Score) -> Score:
        needs, own = parameters_of(score)
        CRITERIA.add(
            name,
            Criterion(
                name,
                score,
                unit or score,
                per,
                moment,
                needs,
                own,
                frozenset(elements),
                paper,
                rounds,
                regrows,
                measuring or {},
            ),
        )
        return score

    return register
