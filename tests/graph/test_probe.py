"""Values seen again in another pass: the same places, on other data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.core.errors import InputError, ModelError
from secateur.graph.probe import Probe, TensorPlace, TensorPlaces, first
from secateur.graph.program import refs
from secateur.graph.trace import trace


class Twice(nn.Module):
    """One block run twice, with a call of its own in between and an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(torch.tanh(self.block(x)))


def watched(model: nn.Module, example: Any, inputs: Any) -> dict[TensorPlace, list[Tensor]]:
    """Everything that comes out of any call, in order."""
    program = trace(model, example)
    places = TensorPlaces(program)
    every = {place for call in program.calls for value in refs(call.outputs) if (place := places.out(value))}
    found: dict[TensorPlace, list[Tensor]] = {}
    Probe(model, program, every).run(inputs, lambda p, t: found.setdefault(p, []).append(t.clone()))
    assert found.keys() == every
    return found


def test_each_turn_of_a_shared_module_is_a_place_of_its_own() -> None:
    torch.manual_seed(0)
    model = Twice()
    x = torch.randn(5, 4)
    with torch.no_grad():
        seen = watched(model, torch.ones(2, 4), x)
        middle = model.block(x)
        last = model(x)
    relus = [value for place, (value,) in seen.items() if place.point.function.endswith("relu")]
    assert [place.point.turn for place in seen if place.point.function.endswith("relu")] in ([0, 1], [1, 0])
    assert {v.sum().item() for v in relus} == {middle.sum().item(), last.sum().item()}


def test_what_is_given_for_an_argument_takes_its_place() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    program = trace(model, torch.ones(1, 3))
    places = TensorPlaces(program)
    at, call = next((n, c) for n, c in enumerate(program.calls) if c.module == "1")
    place = places.into(at, next(refs(call.args)))
    assert place is not None
    assert place.side == "args"
    x = torch.randn(6, 3)
    out = Probe(model, program, [place]).run(x, lambda _, hidden: hidden * 0)
    torch.testing.assert_close(out, model[1].bias.detach().expand(6, 2))


def test_the_model_is_left_alone_and_gets_no_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    program = trace(model, torch.ones(2, 3, 2, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    out = Probe(model, program, []).run(torch.randn(2, 3, 2, 2), lambda *_: None)
    assert not out.requires_grad
    assert model.training
    assert "forward" not in vars(model[0])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Restless(nn.Module):
    """Makes more calls for large batches."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(len(x)):
            x = torch.sigmoid(x)
        return x


def test_code_that_goes_another_way_on_the_data_is_refused_in_one_sentence() -> None:
    program = trace(Restless(), torch.ones(2, 3))
    place = TensorPlaces(program).out(next(refs(program.calls[-1].outputs)))
    assert place is not None
    probe = Probe(Restless(), program, [place])
    with pytest.raises(
        ModelError,
        match=r"Restless calls torch\.sigmoid 3 times on the calibration data, and did so 2 times on the example "
        r"inputs: pass example inputs like the data\.",
    ):
        probe.run(torch.ones(3, 3), lambda *_: None)


def test_data_the_model_does_not_take_is_refused() -> None:
    model = nn.Linear(3, 2)
    probe = Probe(model, trace(model, torch.ones(1, 3)), [])
    with pytest.raises(InputError, match="The model does not run on the calibration data"):
        probe.run(torch.ones(1, 4), lambda *_: None)


def test_where_the_samples_lie_is_told_by_running_fewer() -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = torch.sigmoid(x.transpose(0, 1))  # [3, N, 3]
            joined = torch.tanh(first.transpose(0, 1).flatten(0, 1))  # [3 N, 3]
            return F.relu(joined.sum(0))  # [3]

    model, x = Turned(), torch.ones(3, 3, 3)
    program = trace(model, x)
    places = TensorPlaces(program)
    wanted = {
        call.name.rpartition(".")[2]: place
        for call in program.calls
        for value in refs(call.outputs)
        if (place := places.out(value)) and call.name.rpartition(".")[2] in ("sigmoid", "tanh", "relu")
    }
    dims = Probe(model, program, wanted.values()).sample_dims(x)
    assert {name: dims.get(place) for name, place in wanted.items()} == {
        "sigmoid": 1,
        "tanh": 0,
        "relu": None,
    }


def test_first_samples_of_any_batch() -> None:
    x = torch.arange(4)
    assert first(x, 1).tolist() == [0]
    cut = first({"ids": x, "table": torch.ones(7), "flag": True}, 2)
    assert (cut["ids"].tolist(), len(cut["table"]), cut["flag"]) == ([0, 1], 7, True)
    assert [t.tolist() for t in first((x, x + 1), 1)] == [[0], [1]]
