"""The settings of a cut: names, defaults, documentation and checks, each declared once.

`secateur.prune`, the steps that cut and the command line are made from `Settings`: a field's `help` is its
documentation everywhere, its `where` names the properties of the granularities it applies to, and its `check`
validates its value.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any, TypeVar, get_type_hints

from torch import Tensor

from secateur.compensation import COMPENSATIONS
from secateur.core.brief import Brief
from secateur.core.errors import InputError
from secateur.core.options import check_kind, check_least, check_options
from secateur.core.registry import Registry, unknown
from secateur.criteria import CRITERIA, CalibrationBatches
from secateur.importance import NORMALIZATIONS, REDUCTIONS
from secateur.pruning.allocate_units import SPREADS
from secateur.pruning.allocate_weights import SCOPES, check_amount
from secateur.pruning.budget import Budget, LatencyBudget, read
from secateur.pruning.iterative import PATHS
from secateur.sparsity.granularity import GRANULARITIES, Granularity, kinds_where, parse
from secateur.sparsity.targets import as_names, roles

DEAD = "dead"
"""The amount that removes exactly the dead units."""

RENAMED = {"normalisation": "scaling"}
"""Renamed options of compensations: old name → new name."""


def setting(
    default: Any,
    help: str,
    *,
    where: tuple[str, ...] = (),
    check: Callable[[Any], Any] = lambda value: value,
    factory: Callable[[], Any] | None = None,
) -> Any:
    """Declare a setting: its default, its documentation, and its check, which raises `InputError`.

    `where` names properties of granularities, such as "zeroes"; the setting applies if one of them holds.
    """
    metadata = {"help": help, "where": where, "check": check}
    return (
        field(default_factory=factory, metadata=metadata)
        if factory
        else field(default=default, metadata=metadata)
    )


def _named(registry: Registry[Any]) -> Callable[[str], Any]:
    return lambda name: registry[name]


def _fraction(value: Any) -> None:
    try:
        check_amount(value)
    except InputError:
        raise InputError(
            f"The setting max_amount {value!r} is not a number between 0 and 1: it is a fraction, such as 0.8."
        ) from None


def _at_least_one(what: str, value: int | None) -> None:
    if value is not None:
        check_least(what, value, 1)


def plain_units(units: Any) -> Any:
    """Return units as a tuple: of one number, or of a list, tensor or array of them; any other value as it is."""
    numbers = units.tolist() if hasattr(units, "tolist") else units
    numbers = (numbers,) if isinstance(numbers, int) else numbers
    return tuple(numbers) if isinstance(numbers, Iterable) and not isinstance(numbers, str) else numbers


def check_units(units: Any) -> None:
    """Raise `InputError` unless units are a mapping of names to whole numbers from 0, each once."""
    if units is None:
        return
    if not isinstance(units, Mapping) or not units:
        raise InputError('The setting units names units by group, such as {"fc1": [3, 5]}.')
    for name, numbers in units.items():
        whole = isinstance(numbers, tuple) and all(type(each) is int and each >= 0 for each in numbers)
        if not isinstance(name, str) or not whole or not numbers:
            raise InputError(
                f"The units of {name!r} are {numbers!r}: give whole numbers from 0, such as [3, 5]."
            )
        twice = next((each for each in numbers if numbers.count(each) > 1), None)
        if twice is not None:
            raise InputError(f"The units of '{name}' have {twice} twice: give each unit once.")


@dataclass(frozen=True, repr=False)
class Settings(Brief):
    """The settings of `secateur.prune`, checked at construction.

    Raises `InputError` for settings invalid for every model: an unknown name or option, an amount or budget out of
    range, missing data, or a setting that does not apply to the granularity.
    """

    amount: float | str | Mapping[str, float] | None = setting(
        None,
        "fraction to remove of the prunable weights, blocks or units, in [0, 1]: exactly round(amount · n) go; "
        "dead: exactly the channels or heads that are zero or masked, so that the outputs stay as they are; or "
        "fractions by layer or group, as conv1=0.25, of each: the most exact name counts, * is for all others, and "
        "unnamed layers stay whole",
    )
    units: Mapping[str, Sequence[int]] | None = setting(
        None,
        "instead of an amount, exactly the units to remove, by group or layer, as fc1=[3,5], numbered from 0",
        where=("grouped",),
        check=check_units,
    )
    budget: Mapping[str, float] | None = setting(
        None,
        "instead of an amount, the fraction of a cost to leave, macs=0.5 or params=0.5, or the time one pass may take "
        "on this machine, latency_ms=3.5 and batch=1",
        where=("grouped",),
    )
    granularity: Granularity = setting(
        None,
        "weight, blocks such as block:16x16 or a pattern N:M such as 2:4, whose weights are set to zero; channel, head "
        "or layer (residual blocks), which are removed",
        factory=lambda: parse("weight"),
    )
    criterion: str = setting(
        "magnitude", "criterion of importance; secateur criteria lists them", check=_named(CRITERIA)
    )
    scope: str = setting(
        "global",
        "distribution of the amount: global, local, erk or lamp for weights and blocks; global, local or isomorphic "
        "for channels and heads; a pattern is always local",
    )
    max_amount: float = setting(
        1.0,
        "largest fraction of one group that may go; one unit always stays",
        where=("grouped",),
        check=_fraction,
    )
    round_to: int | None = setting(
        None,
        "leave a multiple of so many units in each group; a group with fewer units stays whole",
        where=("grouped",),
        check=partial(_at_least_one, "setting round_to"),
    )
    reduction: str = setting(
        "mean",
        "one score for the tensors of a unit: mean over all scores, sum, max of the tensors' means, or first (of the "
        "tensor that makes the unit)",
        where=("grouped",),
        check=_named(REDUCTIONS),
    )
    normalization: str = setting(
        "mean",
        "divisor of a group's scores before groups are compared: their mean, max or l2 norm, or none",
        where=("grouped",),
        check=_named(NORMALIZATIONS),
    )
    per_cost: bool = setting(
        False, "divide scores by the cost of a unit, in MACs or in the cost of the budget", where=("grouped",)
    )
    compensation: str = setting(
        "drop",
        "compensation of the cut by the remaining parameters; secateur compensations lists them; drop: none",
        check=_named(COMPENSATIONS),
    )
    correct: bool | None = setting(
        None,
        "take back the shift of means and variances inside the model; when left out, for channels and heads cut with "
        "data by a criterion of trained models",
        where=("zeroes", "grouped"),
    )
    include: tuple[str, ...] = setting(
        ("weights",),
        "roles of parameters that may be cut: weights, biases, norms, embeddings, outputs, others, all",
        where=("zeroes",),
        check=roles,
    )
    keep: tuple[str, ...] = setting((), "layers to leave alone, by name or glob, or groups, by name")
    layers: tuple[str, ...] = setting(
        (),
        "cut only these layers, by name or glob, or these groups, by name; a layer means the channels and heads that "
        "it makes, such as mlp the width inside the MLPs",
    )
    masks: Mapping[str, Tensor] | None = setting(
        None,
        "earlier cuts: they stay cut and count towards the amount; in a group of a pattern they count as the lowest",
        where=("zeroes", "grouped"),
    )
    rounds: int | None = setting(
        None,
        "number of rounds of scoring and cutting; when left out the criterion's own number for weights, blocks and "
        "patterns, else 1",
        check=partial(_at_least_one, "number of rounds"),
    )
    schedule: str = setting(
        "exponential",
        "densities after the rounds: exponential, d^(k/n), or linear",
        check=_named(PATHS),
    )
    allow_empty: bool = setting(
        False,
        "let layers lose all their weights; otherwise each keeps its highest-scored one, except in the scope local",
        where=("zeroes",),
    )
    data: CalibrationBatches | None = setting(
        None,
        "batches of (inputs, labels), for criteria that need more than weights, such as taylor, for compensations that "
        "are fitted, and for corrections",
    )
    verify: bool = setting(
        True,
        "prove that the smaller model equals the large one without the removed units",
        where=("removes",),
    )
    other_sizes: bool = setting(
        True,
        "make a cut of one example that is right for other sizes of its batch, height and width or length too, where "
        "the model takes them",
        where=("grouped",),
    )
    timed: bool = setting(
        False,
        "time a pass of both models, by turns, on the example inputs; takes a second",
        where=("removes",),
    )
    seed: int = setting(0, "seed of criteria that draw at random")
    inplace: bool = setting(False, "prune the model itself instead of a copy")
    options: Mapping[str, Any] = setting(
        None, "options of the criterion and the compensation, such as norm=l2", factory=dict
    )

    @classmethod
    def of(cls, granularity: str = "weight", **given: Any) -> Settings:
        """Return the settings for arguments of `secateur.prune`: texts are read, single names become tuples."""
        for name in ("include", "keep", "layers"):
            if name in given:
                given[name] = as_names(given[name])
        if given.get("criterion") == DEAD and given.get("amount") in (None, DEAD):
            given |= {"amount": DEAD, "criterion": DECLARED["criterion"].default}
        if isinstance(given.get("units"), Mapping):
            given["units"] = {name: plain_units(units) for name, units in given["units"].items()}
        return cls(granularity=parse(granularity), **{**given, "masks": given.get("masks") or None})

    def __post_init__(self) -> None:
        """Check all settings."""
        self._check_each()
        self._check_options()
        self._check_scope()
        self._check_amounts()

    def _check_each(self) -> None:
        hints = get_type_hints(type(self))
        for each in fields(self):
            value = getattr(self, each.name)
            if hints[each.name] in (bool, int):
                check_kind(f"setting {each.name}", value, hints[each.name])
            kinds = kinds_of(each.name)
            if self.granularity.kind not in kinds and value != each.default:
                raise InputError(
                    f"The setting {each.name} has no meaning for the granularity {self.granularity}, only for "
                    f"{', '.join(kinds)}: leave it out."
                )
            try:
                each.metadata["check"](value)
            except InputError as error:
                error.setting = each.name
                raise

    def _check_options(self) -> None:
        compensation, granularity = COMPENSATIONS[self.compensation], str(self.granularity)
        function = compensation.function(granularity)
        for old, new in RENAMED.items():
            if old in self.options:
                raise InputError(f"The option {old} is called {new} now: write {new}={self.options[old]}.")
        check_options(f"the compensation {self.compensation}", self.compensation_options, function)
        own, others = CRITERIA[self.criterion].options, compensation.options(granularity)
        stray = next((n for n in self.options if others and n not in own and n not in others), None)
        if stray is not None:
            owners = f"option of the criterion {self.criterion} or the compensation {self.compensation}"
            raise InputError(unknown(owners, stray, [*own, *others]))
        CRITERIA[self.criterion].check(granularity, self.criterion_options)
        if compensation.needs_data and self.data is None:
            raise InputError(
                f"The compensation {self.compensation} is fitted to what the model does on some data: "
                "pass batches of inputs and labels as data=."
            )
        if self.correct is not None:
            check_kind("setting correct", self.correct, bool)
        if self.correct and self.data is None:
            raise InputError("A correction compares means on some data: pass batches of inputs as data=.")

    def _check_scope(self) -> None:
        scopes: Registry[Any] = SPREADS if self.granularity.grouped else SCOPES
        scopes[self.scope]
        if self.granularity.amount is not None and self.scope not in ("global", "local"):
            raise InputError(
                f"The pattern {self.granularity} takes the same of every group: leave the scope {self.scope} out."
            )

    def _check_amounts(self) -> None:
        granularity, own = self.granularity, self.granularity.amount
        if self.units is not None or self.amount == DEAD:
            self._check_alone()
            return
        if granularity.grouped and (self.amount is None) == (self.budget is None):
            raise InputError(
                "Say how much to remove: either an amount such as 0.5, or a budget such as macs 0.5, not both."
            )
        if isinstance(self.amount, Mapping):
            self._check_own_amounts(self.amount)
            return
        if self.budget is None and self.amount is None and own is None:
            raise InputError(
                f"Say how much to remove: amount=0.8 removes 80 % of the prunable {granularity.kind}s."
            )
        if self.amount is not None and not math.isclose(check_amount(self.amount), self.requested):
            raise InputError(f"The pattern {granularity} removes {own:.0%} by itself: leave amount out.")
        empties = granularity.zeroes and own is None and not self.allow_empty and not SCOPES[self.scope].each
        if empties and self.requested == 1:
            raise InputError(
                "An amount of 1 leaves no weight anywhere: choose a smaller one, or let tensors lose all of theirs "
                "with allow_empty."
            )
        if granularity.grouped:
            self.goal  # noqa: B018  (reads the budget)

    def _check_alone(self) -> None:
        """Refuse settings that choose units beside units that are named, or dead."""
        if not self.granularity.grouped:
            raise InputError(
                f"Dead are channels or heads: give the {self.granularity} cut an amount, such as 0.5."
            )
        said = "The setting units" if self.units is not None else "The amount dead"
        for name in CHOOSING:
            if getattr(self, name) != DECLARED[name].default and not (
                name == "amount" and self.units is None
            ):
                raise InputError(f"{said} names exactly the units that go: leave {name} out.")

    def _check_own_amounts(self, amounts: Mapping[str, float]) -> None:
        granularity, own = self.granularity, self.granularity.amount
        if own is not None:
            raise InputError(f"The pattern {granularity} removes {own:.0%} by itself: leave amount out.")
        if granularity.removes and not granularity.grouped:
            raise InputError(
                f"The granularity {granularity} removes whole layers: give one amount, and name those that may go in "
                "layers."
            )
        if self.scope not in ("global", "local"):
            raise InputError(f"Each layer has an amount of its own: leave the scope {self.scope} out.")
        if not amounts:
            raise InputError('Amounts by layer name at least one, such as {"conv1": 0.25}.')
        for name, amount in amounts.items():
            if not isinstance(name, str):
                raise InputError(f"{name!r} is no name of a layer or group: give its name, or a glob.")
            try:
                check_amount(amount)
            except InputError as error:
                raise InputError(str(error).replace(" is not", f" of '{name}' is not", 1)) from None

    @property
    def amounts(self) -> Mapping[str, float] | None:
        """The amounts by layer; None for one amount of all."""
        return self.amount if isinstance(self.amount, Mapping) else None

    @property
    def requested(self) -> float:
        """The fraction to remove: the pattern's own, or the amount; 0 for amounts by layer and for dead units."""
        if self.granularity.amount is not None:
            return self.granularity.amount
        return 0.0 if isinstance(self.amount, Mapping | str) else float(self.amount or 0.0)

    @cached_property
    def goal(self) -> float | Budget | LatencyBudget:
        """The fraction of units to remove, or the budget; 0 for amounts by layer."""
        return self.requested if self.budget is None else read(self.budget)

    @property
    def corrects(self) -> bool:
        """Whether means and variances are corrected: `correct` if set, else for units cut with data after training.

        By default a cut of weights changes the cut weights alone, so that rewinding and methods reproduce exactly.
        """
        if self.correct is not None:
            return self.correct
        trained = CRITERIA[self.criterion].moment != "before"
        return self.granularity.grouped and self.data is not None and trained

    @property
    def compensation_options(self) -> dict[str, Any]:
        """The options of the compensation, including those whose name the criterion shares."""
        own = COMPENSATIONS[self.compensation].options(str(self.granularity))
        return {name: value for name, value in self.options.items() if name in own}

    @property
    def criterion_options(self) -> dict[str, Any]:
        """The options of the criterion, including those whose name the compensation shares, and unknown ones."""
        own, others = CRITERIA[self.criterion].options, self.compensation_options
        return {name: value for name, value in self.options.items() if name in own or name not in others}

    def choices(self, *more: str) -> dict[str, Any]:
        """Return the settings that identify a cut, by name: those of all granularities, and those named in `more`."""
        names = ("scope", "amount", "keep", "layers", "seed", *more)
        return {
            "granularity": str(self.granularity),
            "criterion": self.criterion,
            "compensation": self.compensation,
            "correct": self.corrects,
            **self.options,
            **{name: getattr(self, name) for name in names},
        }


CHOOSING = (
    "amount", "budget", "criterion", "scope", "max_amount", "round_to", "reduction", "normalization", "per_cost",
    "rounds",
)  # fmt: skip
"""Settings that choose units, which have no meaning where the units are named."""

DECLARED = {each.name: each for each in fields(Settings)}
"""Name of a setting → its declaration."""


def kinds_of(name: str) -> list[str]:
    """Return the kinds of granularity that a setting applies to.

    >>> kinds_of("max_amount")
    ['channel', 'head']
    """
    where = DECLARED[name].metadata["where"]
    return [*GRANULARITIES] if not where else kinds_where(lambda each: any(_holds(each, at) for at in where))


def _holds(granularity: type[Granularity], name: str) -> bool:
    return not granularity.removes if name == "zeroes" else bool(getattr(granularity, name))


def help_of(name: str) -> str:
    """Return the documentation of a setting, followed by its granularities unless it applies to all.

    >>> help_of("keep")
    'layers to leave alone, by name or glob, or groups, by name'
    """
    kinds = kinds_of(name)
    text: str = DECLARED[name].metadata["help"]
    others = sorted(set(GRANULARITIES) - set(kinds))
    if not others:
        return text
    return f"{text} ({'not ' + others[0] if len(others) == 1 else ', '.join(kinds)})"


Documented = TypeVar("Documented", bound=Callable[..., Any])


def documented(function: Documented) -> Documented:
    """Replace the line `{settings}` of a function's docstring by the documentation of all settings."""
    lines = [
        textwrap.fill(f"{name}: {help_of(name)}.", 112, initial_indent=" " * 8, subsequent_indent=" " * 12)
        for name in DECLARED
        if name != "options"
    ]
    function.__doc__ = (function.__doc__ or "").replace("        {settings}", "\n".join(lines))
    return function
