"""One sentence out of a pydantic error."""

from __future__ import annotations

from pydantic import ValidationError


def sentence(error: ValidationError, command_line: bool = False) -> str:
    """Say what is wrong with the first field at fault: its name, its value, what was expected.

    On the command line a field is called by its option.
    """
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "value"
    if command_line:
        name = "--" + name.replace("_", "-")
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"There is no setting '{name}': leave it out or correct its name."
    if first["type"] == "missing":
        return f"The setting {name} is missing."
    if first["type"] == "value_error":
        return reason[0].upper() + reason[1:]
    return f"{name} cannot be {first['input']!r}: {reason[0].lower()}{reason[1:]}."
