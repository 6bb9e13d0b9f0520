"""Options and settings of the wrong type are refused in one sentence, whoever declares them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secateur import CRITERIA, METHODS, InputError, prune
from secateur.core.options import check_kind, check_options

WRONG: list[tuple[Any, str, Any]] = []
for _owner in (*CRITERIA.values(), *METHODS.values()):
    for _option, _default in _owner.options.items():
        _others: tuple[Any, ...] = {bool: ("no", 1, None), int: (True, "3", 2.5), float: (True, "0.5")}.get(
            type(_default), ()
        )
        WRONG += [(_owner, _option, _value) for _value in _others]


def check(owner: Any, options: dict[str, Any]) -> None:
    if owner.name in CRITERIA:
        owner.check(next(iter(owner.granularities)), options)
    else:
        owner.check(None if owner.make.amount == "none" else 0.5, options)


@pytest.mark.parametrize(
    ("owner", "option", "value"), WRONG, ids=lambda each: getattr(each, "name", repr(each))
)
def test_a_value_of_another_type_is_refused(owner: Any, option: str, value: Any) -> None:
    with pytest.raises(InputError) as refused:
        check(owner, {option: value})
    said = str(refused.value)
    assert option in said
    assert owner.name in said
    assert repr(value) in said


@pytest.mark.parametrize("owner", [*CRITERIA.values(), *METHODS.values()], ids=lambda each: each.name)
def test_defaults_are_of_the_type_declared(owner: Any) -> None:
    check(owner, dict(owner.options))


def test_annotations_count_before_defaults() -> None:
    def formula(
        weight: Any, *, much: float = 2, many: int | None = None, other: Any = 1, free=1.5
    ) -> None: ...  # type: ignore[no-untyped-def]

    for options in (
        {"much": 0.5},
        {"many": None},
        {"many": np.int64(3)},
        {"other": "x"},
        {"free": np.float32(1)},
    ):
        check_options("the formula", options, formula)
    for options in ({"much": True}, {"many": 2.5}, {"free": "x"}):
        with pytest.raises(InputError, match="of the formula is"):
            check_options("the formula", options, formula)
    with pytest.raises(InputError, match=r"^The formula has no option 'more': its options are much, many"):
        check_options("the formula", {"more": 1}, formula)
    with pytest.raises(InputError, match=r"^The setting many is 2\.5: give a whole number or None"):
        check_kind("setting many", 2.5, int, type(None))


def test_names_known_to_type_checkers_only_leave_the_defaults() -> None:
    def formula(weight: Unknown, *, power: int = 1) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InputError, match="power of the formula is True"):
        check_options("the formula", {"power": True}, formula)


@pytest.mark.parametrize(
    ("granularity", "setting", "value"),
    [
        ("weight", "allow_empty", "no"),
        ("weight", "inplace", "no"),
        ("weight", "seed", "a"),
        ("weight", "seed", True),
        ("2:4", "allow_empty", 0),
        ("channel", "verify", "no"),
        ("layer", "timed", 1),
        ("head", "seed", 1.5),
    ],
)
def test_a_setting_of_another_type_is_refused(granularity: str, setting: str, value: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with pytest.raises(
        InputError, match=f"^The setting {setting} is {value!r}: give (True or False|a whole number)"
    ):
        prune(model, torch.ones(1, 4), granularity=granularity, **{setting: value})
