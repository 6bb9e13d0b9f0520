"""What is asked of a cut: one value, of which every granularity reads its part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_type_hints

from torch import Tensor

from secateur.compensation import COMPENSATIONS
from secateur.criteria import CRITERIA, Batches
from secateur.errors import InputError
from secateur.granularity import Granularity
from secateur.options import check_kind, check_options
from secateur.registry import unknown

WEIGHTS, UNITS, SMALLER = ("weight", "n:m"), ("channel", "head"), ("channel", "head", "layer")


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
    budget: Mapping[str, float] | None = _for(UNITS, None)
    include: tuple[str, ...] = _for(WEIGHTS, ("weights",))
    keep: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    masks: Mapping[str, Tensor] | None = _for((*WEIGHTS, *UNITS), None)
    max_amount: float = _for(UNITS, 1.0)
    round_to: int | None = _for(UNITS, None)
    reduction: str = _for(UNITS, "mean")
    normalization: str = _for(UNITS, "mean")
    per_cost: bool = _for(UNITS, False)
    compensation: str = "drop"
    correct: bool | None = _for((*WEIGHTS, *UNITS), None)
    rounds: int | None = None
    schedule: str = "exponential"
    allow_empty: bool = _for(WEIGHTS, False)
    data: Batches | None = None
    verify: bool = _for(SMALLER, True)
    timed: bool = _for(SMALLER, False)
    seed: int = 0
    inplace: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `InputError` for a setting without a meaning for the granularity, and an option no one knows."""
        kind = self.granularity.kind
        compensation = COMPENSATIONS[self.compensation]
        compensation.check(kind)
        check_options(
            f"the compensation {self.compensation}", self.compensation_options, compensation.functions[kind]
        )
        if self.correct is not None:
            check_kind("setting correct", self.correct, bool)
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
        if self.correct and self.data is None:
            raise InputError("A correction compares means on some data: pass batches of inputs as data=.")
        hints = get_type_hints(type(self))
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

    @property
    def corrects(self) -> bool:
        """Whether means and variances are corrected: unless told, where units go and data is given, after training.

        A cut of weights changes nothing but them unless told, so that masks, rewinding and methods stay what they are.
        """
        if self.correct is not None:
            return self.correct
        trained = CRITERIA[self.criterion].moment != "before"
        return self.granularity.kind in UNITS and self.data is not None and trained

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
