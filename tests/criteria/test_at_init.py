"""Criteria for untrained networks, against other ways to compute what they are defined as."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import steps
from secateur.core import progress
from secateur.core.errors import InputError, ModelError
from secateur.criteria import CRITERIA, balanced, measured, score
from secateur.pruning.allocate_weights import allocate
from secateur.pruning.api import prune
from secateur.pruning.iterative import PATHS
from secateur.pruning.result import Pruned
from secateur.sparsity.masks import Masks
from secateur.steps.prune import samples

DOUBLE = torch.float64


def net(norm: bool = True, bias: bool = True, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=bias),
        *([nn.BatchNorm2d(4)] if norm else []),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 5, bias=bias),
    ).to(DOUBLE)


def batch(size: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 2, 6, 6, generator=draw, dtype=DOUBLE)
    return images, torch.randint(5, (size,), generator=draw)


def scores(criterion: str, model: nn.Module, data: Any = None, **options: Any) -> dict[str, Tensor]:
    """Score all parameters of a model."""
    weights = dict(model.named_parameters())
    example = torch.ones(2, 2, 6, 6)
    found = measured(criterion, model, weights, data, example_inputs=example, **options)
    return score(criterion, weights, measured=found, **options)


def slopes(function: Callable[[], float], values: Tensor, step: float) -> Tensor:
    """Central differences of `function` by every entry of `values`, which it looks at."""
    flat, found = values.view(-1), []
    for place, value in enumerate(flat.tolist()):
        ends = []
        for moved in (value + step, value - step):
            flat[place] = moved
            ends.append(function())
        flat[place] = value
        found.append((ends[0] - ends[1]) / (2 * step))
    return torch.tensor(found, dtype=DOUBLE).view(values.shape)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


# --- SNIP --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", ["eval", "train", "removed"])
@pytest.mark.parametrize("criterion", ["snip", "iter_snip", "force", "taylor"])
def test_snip_is_the_slope_of_the_loss_in_a_factor_on_each_weight(criterion: str, batch_norm: str) -> None:
    model, (images, labels) = net(), batch()
    model[1].running_mean.uniform_(-1, 1)
    model[1].running_var.uniform_(0.5, 2)
    found = scores(criterion, model, [(images, labels)], batch_norm=batch_norm)
    for name, weight in model.named_parameters():
        if batch_norm == "removed" and name.startswith("1."):
            assert not found[name].any()
            continue
        factors, own = torch.ones_like(weight), weight.detach().clone()

        @torch.no_grad()
        def loss(weight: Tensor = weight, own: Tensor = own, factors: Tensor = factors) -> float:
            weight.copy_(own * factors)
            x = model[0](images)
            if batch_norm != "removed":
                mean, var = (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))
                if batch_norm == "eval":
                    mean, var = model[1].running_mean, model[1].running_var
                shape = (1, -1, 1, 1)
                x = (x - mean.view(shape)) / (var.view(shape) + model[1].eps).sqrt()
                x = x * model[1].weight.view(shape) + model[1].bias.view(shape)
            return float(F.cross_entropy(model[4](x.tanh().flatten(1)), labels))

        expected = slopes(loss, factors, 1e-5).abs()
        with torch.no_grad():
            weight.copy_(own)
        torch.testing.assert_close(found[name], expected, rtol=1e-7, atol=1e-10)


def test_snip_of_zero_biases_is_zero() -> None:
    model = net(norm=False)
    nn.init.zeros_(model[3].bias)
    assert not scores("snip", model, [batch()])["3.bias"].any()


# --- GraSP -------------------------------------------------------------------------------------------------


def gradients(model: nn.Module, parts: list[tuple[Tensor, Tensor]], temperature: float) -> Tensor:
    """Gradient of the mean loss of parts of equal size, all parameters in one vector."""
    model.zero_grad()
    for images, labels in parts:
        (F.cross_entropy(model(images) / temperature, labels) / len(parts)).backward()
    found = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return found


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_hessian_times_gradient_against_differences_of_gradients(
    batch_norm: str, temperature: float, parts: int
) -> None:
    model, (images, labels) = net(), batch()
    weights = dict(model.named_parameters())
    options: dict[str, Any] = {"batch_norm": batch_norm, "temperature": temperature, "parts": parts}
    found = measured("grasp", model, weights, [(images, labels)], **options)["hessian_gradient"]
    model.train(batch_norm == "train")
    pieces = list(zip(images.chunk(parts), labels.chunk(parts), strict=True))
    g = gradients(model, pieces, temperature)
    step = 1e-4 / float(g.norm())
    start, ends = nn.utils.parameters_to_vector(weights.values()).detach(), []
    for direction in (step, -step):
        nn.utils.vector_to_parameters(start + direction * g, weights.values())
        ends.append(gradients(model, pieces, temperature))
    nn.utils.vector_to_parameters(start, weights.values())
    expected = (ends[0] - ends[1]) / (2 * step)
    close(torch.cat([found[name].flatten() for name in weights]), expected, 1e-6)
    grasp = scores("grasp", model, [(images, labels)], **options)
    close(torch.cat([grasp[name].flatten() for name in weights]), start * expected, 1e-6)


class Recurrent(nn.Module):
    """A recurrent layer, then attention."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        states = self.rnn(images.flatten(1, 2))[0]
        return self.last(self.attention(states, states, states, need_weights=False)[0].mean(1))


def test_recurrent_layers_and_attention_have_second_derivatives() -> None:
    torch.manual_seed(0)
    model, (images, labels) = Recurrent().to(DOUBLE).eval(), batch(4)
    weights = dict(model.named_parameters())
    found = measured("grasp", model, weights, [(images, labels)], temperature=1.0, parts=1)
    g = gradients(model, [(images, labels)], 1.0)
    start, ends = nn.utils.parameters_to_vector(weights.values()).detach(), []
    for step in (1e-4, -1e-4):
        nn.utils.vector_to_parameters(start + step * g, weights.values())
        ends.append(gradients(model, [(images, labels)], 1.0))
    hg = torch.cat([each.flatten() for each in found["hessian_gradient"].values()])
    close(hg, (ends[0] - ends[1]) / 2e-4, 1e-6)


def test_grasp_keeps_what_the_gradients_norm_needs() -> None:
    """Where weight i is scaled by 1 − ε, ‖g‖² falls by 2ε θᵢ (Hg)ᵢ: high scores are needed, low ones harm."""
    model, data = net(norm=False), [batch()]
    found = scores("grasp", model, data, temperature=1.0, parts=1)["0.weight"].flatten()
    place, before = int(found.argmax()), gradients(model, data, 1.0).square().sum()
    with torch.no_grad():
        model[0].weight.view(-1)[place] *= 1 - 1e-6
    after = gradients(model, data, 1.0).square().sum()
    assert float(before - after) / 2e-6 == pytest.approx(float(found[place]), rel=1e-4)


def test_the_paper_s_defaults() -> None:
    assert CRITERIA["grasp"].options == {
        "redraw": False,
        "batch_norm": "train",
        "temperature": 200.0,
        "parts": 2,
    }
    assert CRITERIA["snip"].options == CRITERIA["synflow"].options == {"batch_norm": "eval"}
    assert CRITERIA["force"].options == CRITERIA["iter_snip"].options == {"batch_norm": "train"}
    assert [CRITERIA[name].rounds for name in ("snip", "grasp", "synflow", "force")] == [1, 1, 100, 60]


def test_grasp_may_draw_linear_weights_anew_as_its_reference_does() -> None:
    data = [batch()]
    one, other = net(), net()
    with torch.no_grad():
        other[4].weight.mul_(3)  # which redrawing forgets
        for model in (one, other):
            model[4].weight[0, 0] = 0
    before = other[4].weight.clone()
    plain, drawn = (scores("grasp", one, data, redraw=redraw) for redraw in (False, True))
    again = scores("grasp", other, data, redraw=True)
    assert all(torch.equal(drawn[name], again[name]) for name in drawn)
    assert not torch.equal(plain["4.weight"], drawn["4.weight"])
    assert not torch.equal(plain["0.weight"], drawn["0.weight"])
    assert drawn["4.weight"][0, 0] == 0  # a weight that is cut stays cut
    assert torch.equal(other[4].weight, before)
    other_seed = measured("grasp", one, dict(one.named_parameters()), data, redraw=True, seed=1)
    assert not torch.equal(other_seed["scored_weight"]["4.weight"], one[4].weight)
    deviation = float(other_seed["scored_weight"]["4.weight"].std())
    assert deviation == pytest.approx(math.sqrt(2 / 69), rel=0.15)


@pytest.mark.parametrize("parts", [0, -1, 1.5, True, "two"])
def test_parts_that_make_no_sense_are_refused(parts: Any) -> None:
    with pytest.raises(InputError, match=r"The option parts is .*: give a whole number from 1\."):
        scores("grasp", net(), [batch()], parts=parts)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("temperature", 0, "temperature is 0: give a number above 0"),
        ("temperature", -1.5, "temperature is -1.5: give a number above 0"),
        ("temperature", math.nan, "temperature is nan: give a number above 0"),
        ("temperature", math.inf, "temperature is inf: give a number above 0"),
        ("parts", 7, "The data has 6 samples, which don't make 7 parts: give fewer parts"),
        ("parts", 0, "parts is 0: give a whole number from 1"),
    ],
)
def test_options_of_grasp_are_numbers_that_make_sense(option: str, value: Any, said: str) -> None:
    data = [
        (torch.randn(4, 3), torch.zeros(4, dtype=torch.int64)),
        (torch.randn(2, 3), torch.zeros(2).long()),
    ]
    with pytest.raises(InputError, match=re.escape(said)):
        prune(nn.Sequential(nn.Linear(3, 2)), amount=0.5, criterion="grasp", data=data, **{option: value})


def test_a_temperature_can_t_be_applied_to_a_loss_of_the_models_own() -> None:
    with pytest.raises(
        InputError, match=r"model's own loss .* can't be divided by 200: pass labels, or temperature=1"
    ):
        scores("grasp", net(), [({"input": batch()[0]}, None)])


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_unknown_modes_of_batch_normalisation_are_refused(criterion: str) -> None:
    with pytest.raises(InputError, match="There is no batch_norm named 'never'"):
        scores(criterion, net(), [batch()], batch_norm="never")


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
@pytest.mark.parametrize("batch_norm", ["eval", "train", "removed"])
def test_running_statistics_are_neither_moved_nor_lost(criterion: str, batch_norm: str) -> None:
    model = net()
    model[2].train(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores(criterion, model, [batch()], batch_norm=batch_norm)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model[1].track_running_stats
    assert [module.training for module in model] == [True, True, False, True, True]
    assert not model[1]._forward_hooks


# --- SynFlow -----------------------------------------------------------------------------------------------


def relu_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6, 7, bias=False),
        nn.ReLU(),
        nn.Linear(7, 3, bias=False),
    )


def test_every_layer_conserves_the_flow() -> None:
    model = relu_net()
    found = scores("synflow", model)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.abs_()
        flow = float(model(torch.ones(2, 2, 6, 6, dtype=DOUBLE)).sum())
    assert flow > 0
    assert {name: float(each.sum()) for name, each in found.items()} == pytest.approx(
        dict.fromkeys(found, flow), rel=1e-10
    )


def test_linear_networks_have_the_closed_form() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(n, m, bias=False) for n, m in ((4, 6), (6, 5), (5, 3))))
    weights = dict(model.named_parameters())
    found = score(
        "synflow", weights, measured=measured("synflow", model, weights, example_inputs=torch.zeros(1, 4))
    )
    a, b, c = (weight.detach().double().abs() for weight in weights.values())
    one = torch.ones(4, dtype=DOUBLE)
    expected = [
        a * torch.outer(c.sum(0) @ b, one),
        b * torch.outer(c.sum(0), a @ one),
        c * torch.outer(torch.ones(3, dtype=DOUBLE), b @ a @ one),
    ]
    for found_one, expected_one in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(found_one, expected_one, rtol=1e-12, atol=0)


def test_synflow_looks_at_shapes_and_sizes_alone() -> None:
    model = relu_net()
    weights = dict(model.named_parameters())
    one, other = (
        measured("synflow", model, weights, example_inputs=inputs)["flow_gradient"]
        for inputs in (torch.randn(2, 2, 6, 6), torch.full((2, 2, 6, 6), -7.0))
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    with torch.no_grad():
        for weight in weights.values():
            weight.neg_()
    negated = measured("synflow", model, weights, example_inputs=torch.zeros(2, 2, 6, 6))["flow_gradient"]
    assert all(torch.equal(one[name], negated[name]) for name in one)


def test_running_means_count_by_their_size_in_the_flow() -> None:
    def net(sign: float) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)
        )
        with torch.no_grad():
            model[1].running_mean.copy_(torch.tensor([0.5, 1.0, 0.2]) * sign)  # type: ignore[operator, union-attr]
            model[1].bias.uniform_(0, 2)  # type: ignore[operator, union-attr]
        return model.double()

    found = [scores("synflow", net(sign)) for sign in (1.0, -1.0)]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    model = net(-1.0)
    with torch.no_grad():  # as linearised by hand
        for tensor in model.state_dict().values():
            tensor.abs_()
    model.eval()(torch.ones(2, 2, 6, 6, dtype=DOUBLE)).sum().backward()
    for name, parameter in model.named_parameters():
        if name in found[1]:
            torch.testing.assert_close(found[1][name], parameter.detach() * parameter.grad)


def test_batch_normalisation_may_be_removed_for_the_flow() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2, bias=False)
    )
    model[1].running_var.fill_(100.0)
    with torch.no_grad():
        model[1].weight.fill_(5.0)
    plain = nn.Sequential(model[0], model[2], model[3])
    found, expected = scores("synflow", model, batch_norm="removed"), scores("synflow", plain)
    assert torch.equal(found["0.weight"], expected["0.weight"])
    assert torch.equal(found["3.weight"], expected["2.weight"])
    assert not found["1.weight"].any()


def test_deep_networks_are_finite() -> None:
    torch.manual_seed(0)
    model = secateur.build("resnet110")
    weights = {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}
    found = score(
        "synflow",
        weights,
        measured=measured("synflow", model, weights, example_inputs=torch.ones(1, 3, 32, 32)),
    )
    assert all(each.dtype == DOUBLE and each.isfinite().all() for each in found.values())
    assert max(float(each.max()) for each in found.values()) > torch.finfo(torch.float32).max


class Tokens(nn.Module):
    """Takes token numbers, whose values count, and gives logits among other things."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, input_ids: Tensor) -> Any:
        class Outputs:
            logits = self.out(self.embed(input_ids)).sum(1)

        return Outputs()


def test_whole_numbers_are_taken_as_they_are_and_logits_alone_count() -> None:
    model = Tokens()
    weights = dict(model.named_parameters())
    found = measured("synflow", model, weights, example_inputs={"input_ids": torch.tensor([[3, 5]])})
    rows = found["flow_gradient"]["embed.weight"].abs().sum(1)
    assert rows.nonzero().flatten().tolist() == [3, 5]


def test_a_model_that_does_not_run_on_the_shapes_is_refused() -> None:
    model = net()
    with pytest.raises(
        ModelError, match=r"can't run in float64 on ones of the example inputs' shapes \(.*\): give"
    ):
        measured("synflow", model, dict(model.named_parameters()), example_inputs=torch.ones(1, 3, 6, 6))


# --- LAMP --------------------------------------------------------------------------------------------------


def test_lamp_of_the_known_example() -> None:
    weight = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0], dtype=DOUBLE).sqrt() * torch.tensor([1, -1, -1, 1, 1])
    assert score("lamp", {"w": weight})["w"].tolist() == pytest.approx([0.25, 1 / 15, 1 / 7, 1, 4 / 9])


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 2, 2), (), (0, 3)])
def test_lamp_against_explicit_sorting(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    found = score("lamp", {"w": weight})["w"]
    squares = weight.flatten().square().tolist()
    expected = [square / math.fsum(other for other in squares if other >= square) for square in squares]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("amount", [0.3, 0.9, 0.99])
def test_lamp_ranked_globally_is_magnitude_in_the_scope_lamp(amount: float) -> None:
    one = prune(net(), amount=amount, criterion="lamp").masks
    other = prune(net(), amount=amount, criterion="magnitude", scope="lamp").masks
    assert all(torch.equal(one[name], other[name]) for name in one)
    deeper = [
        prune(net(), amount=0.995, masks=one, **choice).masks
        for choice in ({"criterion": "lamp"}, {"criterion": "magnitude", "scope": "lamp"})
    ]
    assert all(torch.equal(deeper[0][name], deeper[1][name]) for name in one)


# --- rounds ------------------------------------------------------------------------------------------------


def choices(criterion: str) -> dict[str, Any]:
    return {"criterion": criterion, "data": [batch()], "example_inputs": torch.ones(1, 2, 6, 6)}


WEIGHTED = sorted(name for name, entry in CRITERIA.items() if "weight" in entry.granularities)


@pytest.mark.parametrize("criterion", WEIGHTED)
@pytest.mark.parametrize("schedule", sorted(PATHS))
def test_random_amounts_in_rounds_are_exact(criterion: str, schedule: str) -> None:
    amounts = torch.rand(30, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).mul(0.99).tolist()
    model = net()
    for amount in amounts:
        result = prune(model, amount=amount, rounds=2, schedule=schedule, **choices(criterion))
        assert result.masks.pruned == round(amount * 392)


@pytest.mark.parametrize("criterion", ["snip", "synflow"])
def test_rounds_against_one_prune_after_the_other(criterion: str) -> None:
    found = prune(net(), amount=0.9, rounds=4, **choices(criterion))
    masks: Masks | None = None
    for step in range(1, 5):
        masks = prune(net(), amount=1 - 0.1 ** (step / 4), masks=masks, rounds=1, **choices(criterion)).masks
    assert masks is not None
    assert all(torch.equal(found.masks[name], masks[name]) for name in masks)
    assert found.choices["rounds"] == 4
    once = prune(net(), amount=0.9, rounds=1, **choices(criterion)).masks
    assert any(not torch.equal(found.masks[name], once[name]) for name in once)


def test_linear_rounds_take_as_many_each_time() -> None:
    found = prune(net(), amount=0.9, rounds=3, schedule="linear", **choices("snip")).masks
    masks = None
    for amount in (0.3, 0.6, 0.9):
        masks = prune(net(), amount=amount, masks=masks, **choices("snip")).masks
    assert masks is not None
    assert all(torch.equal(found[name], masks[name]) for name in masks)


def test_force_lets_weights_come_back_and_iterative_snip_does_not() -> None:
    model, data = net(), [batch()]
    dense = {name: model.get_parameter(name).detach().clone() for name in ("0.weight", "4.weight")}
    masks: dict[str, Tensor] | Masks = {
        name: torch.ones_like(each, dtype=torch.bool) for name, each in dense.items()
    }
    returned = 0
    for step in range(1, 6):
        with torch.no_grad():
            for name, each in dense.items():
                model.get_parameter(name).copy_(each * masks[name])
        model.train().zero_grad()
        F.cross_entropy(model(data[0][0]), data[0][1]).backward()
        found = {name: (dense[name] * model.get_parameter(name).grad).abs() for name in dense}
        now = allocate(found, 1 - 0.05 ** (step / 5), "global")
        returned += sum(int((now[name] & ~masks[name]).sum()) for name in now)
        masks = now
    result = prune(net(), amount=0.95, rounds=5, **choices("force")).masks
    assert returned
    assert all(torch.equal(result[name], masks[name]) for name in masks)
    assert any(
        not torch.equal(result[name], each)
        for name, each in prune(net(), amount=0.95, rounds=5, **choices("iter_snip")).masks.items()
    )


@pytest.mark.parametrize("criterion", ["snip", "force", "synflow"])
@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_patterns_in_rounds(criterion: str, rounds: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 5, bias=False))
    draw = torch.Generator().manual_seed(0)
    data = [(torch.randn(6, 16, generator=draw), torch.randint(5, (6,), generator=draw))]
    result = prune(model, torch.ones(1, 16), granularity="1:8", criterion=criterion, data=data, rounds=rounds)
    for mask in result.masks.values():
        assert (mask.unflatten(1, (-1, 8)).sum(2) == 1).all()


@pytest.mark.parametrize("scope", ["global", "local", "erk", "lamp"])
def test_rounds_go_on_from_earlier_cuts_of_any_kind(scope: str) -> None:
    earlier = prune(net(), amount=0.6, scope="erk").masks
    result = prune(net(), amount=0.95, scope=scope, masks=earlier, rounds=5, **choices("snip"))
    assert all(not bool((result.masks[name] & ~earlier[name]).any()) for name in earlier)
    if scope == "local":
        assert all(m.numel() - int(m.sum()) == round(0.95 * m.numel()) for m in result.masks.values())
    else:
        assert result.masks.pruned == round(0.95 * 392)


def test_rounds_leave_the_model_alone_and_its_own_zeros_too() -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prune(model, amount=0.9, **choices("synflow"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_rounds_show_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "console", lambda: Console(file=screen, force_terminal=True))
    monkeypatch.delenv("SECATEUR_QUIET", raising=False)
    prune(net(), amount=0.9, rounds=2, **choices("snip"))
    assert "rounds" in screen.getvalue()
    assert "gradients" not in screen.getvalue()
    prune(net(), amount=0.9, **choices("snip"))
    assert "gradients" in screen.getvalue()


@pytest.mark.parametrize("rounds", [0, -1, 2.5, True, "many"])
def test_rounds_that_make_no_sense_are_refused(rounds: Any) -> None:
    with pytest.raises(InputError, match=r"The number of rounds is .*: give a whole number from 1\."):
        prune(net(), amount=0.5, rounds=rounds)


def test_other_choices_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="There is no schedule of rounds named 'cubic'"):
        prune(net(), amount=0.5, schedule="cubic")
    with pytest.raises(
        InputError, match="The setting allow_empty has no meaning for the granularity channel"
    ):
        prune(net(), torch.ones(1, 2, 6, 6), amount=0.5, granularity="channel", allow_empty=True)


# --- nothing collapses -------------------------------------------------------------------------------------


class Deep(nn.Module):
    """Layers whose weights differ in size by orders of magnitude."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Linear(20, 20, bias=False) for _ in range(6)), nn.Linear(20, 5))
        with torch.no_grad():
            for place, layer in enumerate(self.layers):
                layer.weight.mul_(4.0**-place)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


SIGNED = ("grasp", "obd")
"""Criteria whose scores may be negative."""


def nearly_all_cut(criterion: str, scope: str) -> Pruned:
    draw = torch.Generator().manual_seed(0)
    data = [(torch.randn(30, 20, generator=draw), torch.randint(5, (30,), generator=draw))]
    return prune(
        Deep(), torch.ones(1, 20), amount=0.99, criterion=criterion, scope=scope, data=data, rounds=2
    )


@pytest.mark.parametrize("criterion", SIGNED)
def test_the_scope_lamp_refuses_negative_scores(criterion: str) -> None:
    with pytest.raises(InputError, match="scope lamp compares squares of scores, and some are negative"):
        nearly_all_cut(criterion, "lamp")


@pytest.mark.parametrize(
    ("criterion", "scope"),
    [
        (criterion, scope)
        for criterion in WEIGHTED
        for scope in ("global", "erk", "lamp")
        if not (criterion in SIGNED and scope == "lamp")
    ],
)
def test_no_criterion_empties_a_layer_unless_asked(criterion: str, scope: str) -> None:
    result = nearly_all_cut(criterion, scope)
    assert result.masks.pruned == round(0.99 * 2500)
    assert all(mask.any() for mask in result.masks.values())


def test_what_was_redistributed_is_told() -> None:
    result = prune(Deep(), amount=0.99)
    asked = prune(Deep(), amount=0.99, allow_empty=True)
    empty = {name for name, mask in asked.masks.items() if not mask.any()}
    assert len(empty) >= 4
    assert empty <= result.redistributed.keys()
    assert all(result.redistributed[name] == 1 for name in empty)
    assert sum(result.redistributed.values()) == 0
    assert not asked.redistributed
    assert f"{min(empty)} +1" in result.summary().splitlines()[-1]
    assert result.summary().splitlines()[-1].startswith("  so that no tensor is empty: ")
    with pytest.raises(InputError, match=r"leaves fewer weights \(2\) than tensors \(7\): .* allow_empty"):
        prune(Deep(), amount=0.999)


# --- the command -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a network that was not trained, `fresh`."""
    root = tmp_path_factory.mktemp("runs")
    steps.Train(model="convnet", data="digits", epochs=0, out="fresh")(root)
    return root


@pytest.mark.parametrize("criterion", WEIGHTED)
def test_every_criterion_cuts_a_run_with_samples_of_its_data(criterion: str, untrained: Path) -> None:
    many = {"rounds": 2} if CRITERIA[criterion].rounds > 1 else {}
    step = steps.Prune(
        run="fresh", out=criterion, amount=0.99, criterion=criterion, calibration=40, evaluate=False, **many
    )
    record = step(untrained).record
    assert record["pruned"] == round(0.99 * record["prunable"])
    assert all(
        mask.any() for mask in secateur.load_masks(untrained / criterion / "model.safetensors").values()
    )


def test_options_of_what_is_measured_come_through_the_command_line(
    untrained: Path, secateur_command: Any
) -> None:
    words = ["prune", untrained / "fresh", "--criterion", "grasp", "--amount", "0.9", "--no-evaluate"]
    more = ["--temperature", "1", "--redraw", "true", "--parts", "4", "--batch-norm", "eval", "--rounds", "2"]
    result = secateur_command(*words, *more, "--schedule", "linear", "--out", untrained / "optioned")
    assert (result.code, result.err) == (0, "")
    masks = secateur.load_masks(untrained / "optioned" / "model.safetensors")
    run = secateur.Run.open(untrained / "fresh")
    data = run.load_data()
    expected = prune(
        run.load_model()[0],
        amount=0.9,
        criterion="grasp",
        data=samples(data, 512, 0),
        temperature=1,
        redraw=True,
        parts=4,
        batch_norm="eval",
        rounds=2,
        schedule="linear",
    ).masks
    assert all(torch.equal(masks[name], expected[name]) for name in expected)
    other = prune(run.load_model()[0], amount=0.9, criterion="grasp", data=samples(data, 512, 0)).masks
    assert any(not torch.equal(masks[name], other[name]) for name in other)
    refused = secateur_command(*words, "--parts", "none", "--out", untrained / "refused")
    assert refused.code == 2
    assert "The option parts of the criterion grasp is 'none': give a whole number" in refused.err


def test_the_command_tells_which_layers_were_spared(untrained: Path, secateur_command: Any) -> None:
    words = ["prune", untrained / "fresh", "--amount", "0.999", "--no-evaluate"]
    told = secateur_command(*words, "--out", untrained / "spared").out
    assert "So that no layer is empty, " in told
    allowed = secateur_command(*words, "--allow-empty", "--out", untrained / "allowed").out
    assert "empty" not in allowed


# --- samples -----------------------------------------------------------------------------------------------


def test_balanced_batches() -> None:
    data = secateur.load_data("digits")
    ((images, labels),) = balanced(data, per_class=6, seed=1)
    assert images.shape == (60, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.bincount().tolist() == [6] * 10
    assert labels[:30].bincount().tolist() == [3] * 10  # a half is balanced too
    assert torch.equal(balanced(data, per_class=6, seed=1)[0][1], labels)
    assert not torch.equal(balanced(data, per_class=6, seed=2)[0][0], images)
    with pytest.raises(InputError, match=r"The class \w+ of digits has fewer than 400 training samples"):
        balanced(data, per_class=400)


def shallow() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 8), (8, 16), (16, 16), (16, 16)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


@pytest.mark.parametrize("criterion", ["force", "iter_snip"])
def test_rounding_decides_nothing_under_statistics_of_the_batch(criterion: str) -> None:
    """The same masks from a float32 network and its float64 form, where float32 gradients have others."""
    inputs = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels, model = torch.arange(40) % 10, shallow()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = secateur.prune(model, amount=0.95, criterion=criterion, rounds=6, data=[(inputs, labels)]).masks
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.get_default_dtype() == torch.float32
    wide = secateur.prune(
        model.double(), amount=0.95, criterion=criterion, rounds=6, data=[(inputs.double(), labels)]
    ).masks
    assert all(torch.equal(found[name], wide[name]) for name in wide)


def test_code_that_needs_float32_is_measured_in_it() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) @ torch.eye(3, dtype=torch.float32)

    model = Fixed()
    data = [(torch.randn(6, 4), torch.arange(6) % 3)]
    found = measured("snip", model, dict(model.named_parameters()), data, batch_norm="train")
    assert {each.dtype for each in found["gradient"].values()} == {torch.float32}
    assert {each.dtype for each in model.parameters()} == {torch.float32}
