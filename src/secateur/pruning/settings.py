"""What is asked of a cut: one value, of which every granularity reads its part."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_type_hints

from torch import Tensor

from secateur.compensation import COMPENSATIONS
from secateur.core.errors import InputError
from secateur.core.options import check_kind, check_least, check_options
from secateur.core.registry import Registry, unknown
from secateur.criteria import CRITERIA, CalibrationBatches
from secateur.importance import NORMALIZATIONS, REDUCTIONS
from secateur.pruning import budget as budgets
from secateur.pruning.allocate_units import SPREADS
from secateur.pruning.allocate_weights import SCOPES, check_amount
from secateur.pruning.iterative import PATHS
from secateur.sparsity.granularity import Granularity, parse
from secateur.sparsity.targets import as_names, roles

SPARSE_KINDS, UNIT_KINDS, SHRINKING_KINDS = (
    ("weight", "n:m"),
    ("channel", "head"),
    ("channel", "head", "layer"),
)


def _for(kinds: Collection[str], default: Any) -> Any:
    """Declare a setting that has a meaning for these kinds of granularity only."""
    return field(default=default, metadata={"kinds": frozenset(kinds)})


@dataclass(frozen=True)
class Settings:
    """The arguments of `secateur.prune`, which says what each means."""

    granularity: Granularity
    criterion: str = "magnitude"
    scope: str = "global"
    amount: float | None = None
    budget: Mapping[str, float] | None = _for(UNIT_KINDS, None)
    include: tuple[str, ...] = _for(SPARSE_KINDS, ("weights",))
    keep: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    masks: Mapping[str, Tensor] | None = _for((*SPARSE_KINDS, *UNIT_KINDS), None)
    max_amount: float = _for(UNIT_KINDS, 1.0)
    round_to: int | None = _for(UNIT_KINDS, None)
    reduction: str = _for(UNIT_KINDS, "mean")
    normalization: str = _for(UNIT_KINDS, "mean")
    per_cost: bool = _for(UNIT_KINDS, False)
    compensation: str = "drop"
    correct: bool | None = _for((*SPARSE_KINDS, *UNIT_KINDS), None)
    rounds: int | None = None
    schedule: str = "exponential"
    allow_empty: bool = _for(SPARSE_KINDS, False)
    data: CalibrationBatches | None = None
    verify: bool = _for(SHRINKING_KINDS, True)
    timed: bool = _for(SHRINKING_KINDS, False)
    seed: int = 0
    inplace: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, granularity: str = "weight", **given: Any) -> Settings:
        """Return the settings that arguments of `secateur.prune` make."""
        for name in ("include", "keep", "layers"):
            if name in given:
                given[name] = as_names(given[name])
        return cls(parse(granularity), **given)

    def check(self) -> None:
        """Raise `InputError` for what makes no sense whatever the model is.

        That is a name or an option nobody knows, an amount or a budget that is none, data that is missing, and a
        setting without a meaning for the granularity.
        """
        self._check_options()
        self._check_meanings()
        self._check_names()
        self._check_amounts()

    def _check_options(self) -> None:
        kind, compensation = self.granularity.kind, COMPENSATIONS[self.compensation]
        compensation.check(kind)
        check_options(
            f"the compensation {self.compensation}", self.compensation_options, compensation.functions[kind]
        )
        own, others = CRITERIA[self.criterion].options, compensation.options(kind)
        stray = next(
            (name for name in self.options if others and name not in own and name not in others), None
        )
        if stray is not None:
            owners = f"option of the criterion {self.criterion} or the compensation {self.compensation}"
            raise InputError(unknown(owners, stray, [*own, *others]))
        CRITERIA[self.criterion].check(kind, self.criterion_options)
        if compensation.needs_data and self.data is None:
            raise InputError(
                f"The compensation {self.compensation} is fitted to what the model does on some data: "
                "pass batches of inputs and labels as data=."
            )
        if self.correct is not None:
            check_kind("setting correct", self.correct, bool)
        if self.correct and self.data is None:
            raise InputError("A correction compares means on some data: pass batches of inputs as data=.")

    def _check_meanings(self) -> None:
        kind, hints = self.granularity.kind, get_type_hints(type(self))
        for setting in fields(self):
            kinds = setting.metadata.get("kinds", (kind,))
            assert setting.default is not MISSING or kind in kinds
            if hints[setting.name] in (bool, int):  # the others are looked at where they are used
                check_kind(f"setting {setting.name}", getattr(self, setting.name), hints[setting.name])
            if kind not in kinds and getattr(self, setting.name) != setting.default:
                raise InputError(
                    f"The setting {setting.name} has no meaning for the granularity {self.granularity}, only for "
                    f"{', '.join(sorted(kinds))}: leave it out."
                )

    def _check_names(self) -> None:
        scopes: Registry[Any] = SPREADS if self.granularity.kind in UNIT_KINDS else SCOPES
        for registry, name in (
            (scopes, self.scope),
            (PATHS, self.schedule),
            (REDUCTIONS, self.reduction),
            (NORMALIZATIONS, self.normalization),
        ):
            registry[name]
        roles(self.include)
        if self.granularity.kind == "n:m" and self.scope not in ("global", "local"):
            raise InputError(
                f"The pattern {self.granularity} takes the same of every group: leave the scope {self.scope} out."
            )

    def _check_amounts(self) -> None:
        kind, own = self.granularity.kind, self.granularity.amount
        if kind in UNIT_KINDS and (self.amount is None) == (self.budget is None):
            raise InputError(
                "Say how much to remove: either an amount such as 0.5, or a budget such as macs 0.5, not both."
            )
        if self.budget is None and self.amount is None and own is None:
            raise InputError(f"Say how much to remove: amount=0.8 removes 80 % of the prunable {kind}s.")
        if self.amount is not None and not math.isclose(check_amount(self.amount), self.requested):
            raise InputError(f"The pattern {self.granularity} removes {own:.0%} by itself: leave amount out.")
        if kind == "weight" and self.requested == 1 and not self.allow_empty and not SCOPES[self.scope].each:
            raise InputError(
                "An amount of 1 leaves no weight anywhere: choose a smaller one, or let tensors lose all of theirs "
                "with allow_empty."
            )
        if kind in UNIT_KINDS and self.budget is not None:
            budgets.read(self.budget)
        check_amount(self.max_amount)
        if self.rounds is not None:
            check_least("number of rounds", self.rounds, 1)
        if self.round_to is not None:
            check_least("setting round_to", self.round_to, 1)

    @property
    def requested(self) -> float:
        """The fraction to remove: the pattern's own, or the caller's."""
        own = self.granularity.amount
        return check_amount(self.amount) if own is None else own

    @property
    def corrects(self) -> bool:
        """Whether means and variances are corrected: unless told, where units go and data is given, after training.

        A cut of weights changes nothing but them unless told, so that masks, rewinding and methods stay what they are.
        """
        if self.correct is not None:
            return self.correct
        trained = CRITERIA[self.criterion].moment != "before"
        return self.granularity.kind in UNIT_KINDS and self.data is not None and trained

    @property
    def compensation_options(self) -> dict[str, Any]:
        """The options that are the compensation's; those of the criterion that have the same name are, too."""
        own = COMPENSATIONS[self.compensation].options(self.granularity.kind)
        return {name: value for name, value in self.options.items() if name in own}

    @property
    def criterion_options(self) -> dict[str, Any]:
        """The options that are not the compensation's alone."""
        own, others = CRITERIA[self.criterion].options, self.compensation_options
        return {name: value for name, value in self.options.items() if name in own or name not in others}

    def choices(self, *more: str) -> dict[str, Any]:
        """Return what identifies a cut, by name: the settings all granularities share, and `more` of them."""
        names = ("scope", "amount", "keep", "layers", "seed", *more)
        return {
            "granularity": str(self.granularity),
            "criterion": self.criterion,
            "compensation": self.compensation,
            "correct": self.corrects,
            **self.options,
            **{name: getattr(self, name) for name in names},
        }
