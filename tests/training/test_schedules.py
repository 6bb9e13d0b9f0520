"""Learning rates against their closed forms, spans of training, and the settings that are refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from secateur.core.errors import InputError
from secateur.training import Duration, TrainConfig
from secateur.training.learning_rate import learning_rate
from secateur.training.schedules import SCHEDULES

PER_EPOCH = 10
EPOCHS = 12


def rates(**settings: object) -> list[float]:
    config = TrainConfig(epochs=EPOCHS, lr=0.4, **settings)  # type: ignore[arg-type]
    return [learning_rate(iteration, PER_EPOCH, config) for iteration in range(PER_EPOCH * EPOCHS)]


CLOSED_FORMS = {
    "constant": ({}, lambda i: 0.4),
    "step": ({"lr_every": 3, "lr_factor": 0.2}, lambda i: 0.4 * 0.2 ** (i // 30)),
    "multistep": (
        {"milestones": (2, 7.5), "lr_factor": 0.1},
        lambda i: 0.4 if i < 20 else 0.04 if i < 75 else 0.004,
    ),
    "halving": ({"lr_every": 2.5}, lambda i: 0.4 / 2 ** (i // 25)),
    "cosine": ({}, lambda i: 0.2 * (1 + math.cos(math.pi * i / 120))),
}


def test_every_schedule_has_a_closed_form_here() -> None:
    assert set(CLOSED_FORMS) == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_its_closed_form(name: str) -> None:
    settings, form = CLOSED_FORMS[name]
    expected = [form(i) for i in range(PER_EPOCH * EPOCHS)]  # type: ignore[no-untyped-call]
    assert rates(schedule=name, **settings) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "steps"), [("2ep", 20), ("7it", 7), ("5%", 6), ("0ep", 0)])
def test_a_warm_up_is_linear_and_leaves_the_rest_of_the_schedule_alone(
    name: str, warmup: str, steps: int
) -> None:
    settings, _ = CLOSED_FORMS[name]
    warm = rates(schedule=name, warmup=warmup, **settings)
    assert warm[:steps] == pytest.approx([0.4 * (i + 1) / (steps + 1) for i in range(steps)])
    assert warm[steps:] == rates(schedule=name, **settings)[steps:]


@pytest.mark.parametrize("every", [0.1, 0.3, 0.7, 1 / 3])
def test_cuts_fall_on_the_iteration_they_are_due_at(every: float) -> None:
    """0.3 / 0.1 is 2.999… in floating point: a cut must not come one iteration late for it."""
    per_epoch = 30
    config = TrainConfig(epochs=5, lr=1.0, schedule="halving", lr_every=every)
    for cut in range(1, 5):
        due = round(cut * every * per_epoch)
        assert learning_rate(due - 1, per_epoch, config) == 0.5 ** (cut - 1)
        assert learning_rate(due, per_epoch, config) == 0.5**cut


@given(st.sampled_from(list(SCHEDULES)), st.integers(1, 50), st.integers(1, 20), st.data())
def test_no_rate_is_negative_or_above_the_peak(
    name: str, per_epoch: int, epochs: int, data: st.DataObject
) -> None:
    config = TrainConfig(epochs=epochs, lr=0.1, schedule=name, milestones=(1, 2), warmup="3it")
    iteration = data.draw(st.integers(0, per_epoch * epochs - 1))
    assert 0 <= learning_rate(iteration, per_epoch, config) <= 0.1


@pytest.mark.parametrize(
    ("text", "iterations"),
    [
        ("2ep", 200),
        ("0.5ep", 50),
        ("500it", 500),
        ("3%", 30),
        ("2", 200),
        (1, 100),
        (0.25, 25),
        ("  1 ep ", 100),
        ("1e3it", 1000),
    ],
)
def test_a_duration_counts_iterations(text: str | float, iterations: int) -> None:
    duration = Duration.parse(text)
    assert duration.iterations(per_epoch=100, total=1000) == iterations
    assert Duration.parse(str(duration)) == duration


@pytest.mark.parametrize("text", ["", "ep", "-1ep", "2 weeks", "nan", "3 %%", None])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no span of training"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"optimizer": "sdg"}, "sgd"),
        ({"schedule": "cosin"}, "cosine"),
        ({"precision": "8-mixed"}, "bf16-mixed"),
        ({"warmup": "soon"}, "soon"),
        ({"lr": 0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"lr": float("inf")}, "lr"),
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"ema": 1.0}, "ema"),
        ({"momentum": 1.0}, "momentum"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"devices": 0}, "devices"),
        ({"learning_rate": 0.1}, "learning_rate"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        TrainConfig(**settings)  # type: ignore[arg-type]
