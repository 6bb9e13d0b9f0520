"""Fields of steps that are settings of a cut, made from `secateur.pruning.settings`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import BaseModel, Field, create_model

from secateur.pruning.settings import DECLARED, Settings, help_of

WRITTEN: Mapping[str, tuple[Any, Any]] = {
    "granularity": (str, "weight"),
    "budget": (dict[str, float] | None, None),
    "units": (dict[str, list[int] | int] | None, None),
}
"""Settings with another type in fields of steps: name → (type, default)."""


def fields_of_settings(*names: str) -> type[BaseModel]:
    """Return a pydantic model with the named settings as fields: type, default and description.

    The values are checked by `Settings` alone.
    """
    hints = get_type_hints(Settings)
    fields: dict[str, Any] = {}
    for name in names:
        annotation, default = WRITTEN.get(name, (hints[name], DECLARED[name].default))
        fields[name] = annotation, Field(default, description=help_of(name))
    model: type[BaseModel] = create_model("SettingFields", **fields)
    return model


if TYPE_CHECKING:

    class PruneSettings(BaseModel):
        """Fields made at runtime."""

        def __getattr__(self, name: str) -> Any: ...

    class TicketSettings(PruneSettings):
        """Fields made at runtime."""

else:
    PruneSettings = fields_of_settings(
        "amount", "budget", "units", "granularity", "criterion", "scope", "max_amount", "round_to", "reduction",
        "normalization", "per_cost", "compensation", "correct", "include", "keep", "layers", "rounds", "schedule",
        "allow_empty", "other_sizes",
    )  # fmt: skip
    TicketSettings = fields_of_settings("granularity", "criterion", "scope", "include", "keep", "layers")


def settings_of(step: BaseModel, **given: Any) -> Settings:
    """Return the settings of a cut from the fields of a step; those `given` have precedence.

    Raises `InputError` for an invalid combination.
    """
    own = {name: getattr(step, name) for name in type(step).model_fields if name in DECLARED}
    return Settings.of(**{**own, **given})


def check_settings(step: BaseModel, **given: Any) -> None:
    """Raise `InputError` for fields of a step that are invalid for every model and data set."""
    settings_of(step, **{"data": (), **given})
