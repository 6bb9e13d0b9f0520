"""Text from files and names, made fit for terminals, pages and charts."""

from __future__ import annotations

import re
from typing import Any

UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)
"""Control characters but newline and tab, marks that turn the direction of text, surrogates and non-characters."""


def visible(text: str) -> str:
    r"""Return the text with unfit characters as their escapes, which are those of JSON, Python and JavaScript.

    >>> print(visible("lr\x1b[1m"))
    lr\u001b[1m
    """
    return UNFIT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def all_visible(value: Any) -> Any:
    """Return a JSON value with every text in it made visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(str(key)): all_visible(part) for key, part in value.items()}
    return [all_visible(part) for part in value] if isinstance(value, list | tuple) else value
