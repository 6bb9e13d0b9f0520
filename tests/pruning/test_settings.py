"""Settings are said once: the function, its documentation, the steps and the command line are made from `Settings`."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError
from secateur.pruning import settings as module
from secateur.pruning.settings import DECLARED, Settings, documented, help_of, kinds_of
from secateur.sparsity.granularity import GRANULARITIES, parse
from secateur.steps import Prune, Ticket

WRITTEN = {"granularity": "weight", "options": {}}
"""Settings whose default is another value for a caller."""


def default_of(name: str) -> Any:
    declared = DECLARED[name]
    return WRITTEN.get(name, declared.default if declared.default is not MISSING else None)


def test_the_signature_of_prune_is_the_settings() -> None:
    parameters = dict(inspect.signature(secateur.prune).parameters)
    del parameters["model"], parameters["example_inputs"]
    options = parameters.pop("options")
    assert options.kind is options.VAR_KEYWORD
    assert parameters.keys() == DECLARED.keys() - {"options"}
    assert {name: p.default for name, p in parameters.items()} == {
        name: default_of(name) for name in parameters
    }


def test_the_documentation_of_prune_tells_every_setting() -> None:
    text = " ".join((secateur.prune.__doc__ or "").split())
    for name in DECLARED:
        assert f" {name}: " in text
        if name != "options":
            assert f" {name}: {help_of(name)}." in text


@pytest.mark.parametrize("step", [Prune, Ticket])
def test_fields_of_steps_are_settings(step: Any) -> None:
    shared = [
        name for name in step.model_fields if name in DECLARED and name not in ("seed", "options", "amount")
    ]
    assert "granularity" in shared
    for name in shared:
        field = step.model_fields[name]
        assert field.description == help_of(name)
        assert field.default == default_of(name)
        assert not field.metadata, f"{name} is checked by Settings alone"


def test_the_cut_of_a_step_has_every_setting_that_can_be_written() -> None:
    unwritten = {"masks", "data", "verify", "timed", "inplace"}
    assert {name for name in Prune.model_fields if name in DECLARED} == DECLARED.keys() - unwritten


@pytest.mark.parametrize("name", DECLARED)
def test_a_setting_without_a_meaning_is_refused(name: str) -> None:
    other: dict[str, Any] = {
        "budget": {"macs": 0.5},
        "units": {"0": (1,)},
        "include": ("all",),
        "masks": {"weight": torch.ones(1, dtype=torch.bool)},
        "max_amount": 0.5,
        "round_to": 4,
        "reduction": "sum",
        "normalization": "none",
        "per_cost": True,
        "correct": False,
        "allow_empty": True,
        "verify": False,
        "timed": True,
        "other_sizes": False,
    }
    written = {"n:m": "2:4", "block": "block:2x2"}
    without = [kind for kind in GRANULARITIES if kind not in kinds_of(name)]
    assert bool(without) == (name in other)
    for kind in without:
        with pytest.raises(InputError, match=f"The setting {name} has no meaning for the granularity"):
            Settings.of(written.get(kind, kind), **{"amount": 0.5, name: other[name]})


def test_settings_are_checked_when_they_are_made_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    check = Settings.__post_init__

    def counted(self: Settings) -> None:
        nonlocal made
        made += 1
        check(self)

    monkeypatch.setattr(Settings, "__post_init__", counted)
    secateur.prune(nn.Linear(4, 4), amount=0.5)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    secateur.prune(net, torch.ones(1, 4), granularity="channel", amount=0.5)
    assert made == 2
    Prune(run="a", out="b", amount=0.5)
    assert made == 3


def test_the_old_name_of_an_option_tells_the_new_one() -> None:
    with pytest.raises(
        InputError, match="option normalisation is called scaling now: write scaling=reference"
    ):
        Settings.of("channel", amount=0.5, compensation="fuse", options={"normalisation": "reference"})
    with pytest.raises(InputError, match="option normalisation is called scaling now"):
        Prune(
            run="a",
            out="b",
            amount=0.5,
            granularity="channel",
            compensation="fuse",
            normalisation="reference",
        )


def test_a_new_setting_is_one_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    def before(amount: float) -> None:
        """Do.

        Args:
        {settings}
        """

    documented(before)
    assert "        round_to: leave a multiple" in str(before.__doc__)
    assert get_type_hints(Settings).keys() == {each.name for each in fields(Settings)} == DECLARED.keys()
    assert module.kinds_of("round_to") == ["channel", "head"]
    assert parse("head").grouped
