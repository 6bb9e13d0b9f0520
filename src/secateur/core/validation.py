"""One-sentence messages for pydantic errors."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

NO_SETTING = PydanticCustomError("no_setting", "no setting of this step")
"""Error of the validator of an inherited field that is no setting of a step."""


def sentence(error: ValidationError, called: Callable[[str], str] = str) -> str:
    """Return the sentence for the first invalid field: its name, its value and the expected values.

    `called` maps a field to the name shown to the user, such as its option.
    """
    first = error.errors()[0]
    name = called(str(first["loc"][0])) if first["loc"] else "value"
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"There is no setting '{name}': leave it out or correct its name."
    if first["type"] == "missing":
        return f"The setting {name} is missing."
    if first["type"] == NO_SETTING.type:
        return f"Leave {name} out, which is no setting of this step."
    if first["type"] == "value_error":
        setting = getattr(first.get("ctx", {}).get("error"), "setting", None)
        if setting is not None and called(setting) != setting:
            return reason.replace(f"The setting {setting}", called(setting))
        return reason[0].upper() + reason[1:]
    return f"{name} cannot be {first['input']!r}: {reason[0].lower()}{reason[1:]}."
