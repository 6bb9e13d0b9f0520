"""The criterion obs against explicit inverses, and against the loss after refitting what is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import InputError
from secateur.criteria import CRITERIA, measured, score


class Several(nn.Module):
    """Kernels of several kinds and a linear layer on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding="valid", bias=False)
        self.same = nn.Conv2d(6, 6, (3, 1), padding="same", dilation=(2, 1), padding_mode="circular")
        self.grouped = nn.Conv1d(6, 8, 2, groups=2, padding=1)
        self.linear = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.randn(3))
        self.unreached = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.same(F.relu(self.conv(x)))).flatten(2)
        return (self.linear(F.relu(self.grouped(x)).mT) * self.scale).mean(1)


LAYERS = ("conv", "same", "grouped", "linear")


def case() -> tuple[Several, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    x, labels = torch.randn(7, 4, 9, 7, dtype=torch.float64), torch.randint(3, (7,))
    return Several().double(), [(x[:4], labels[:4]), (x[4:], labels[4:])]


def inputs_one_by_one(layer: nn.Module, x: Tensor, group: int) -> Tensor:
    """What a layer's group looks at, found by letting kernels of a single one copy each number: [rows, columns]."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    size = layer.weight[0].numel()
    share = layer.weight.shape[1]
    part = x[:, group * share : (group + 1) * share]
    probe = type(layer)(
        share,
        size,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        bias=False,
        padding_mode=layer.padding_mode,
    ).double()
    with torch.no_grad():
        probe.weight.copy_(torch.eye(size, dtype=torch.float64).view_as(probe.weight))
        return probe(part).movedim(1, -1).reshape(-1, size)


def inverse_diagonal(moment: Tensor, damping: float) -> Tensor:
    eye = torch.eye(len(moment), dtype=moment.dtype)
    return torch.linalg.inv(moment + damping * moment.diagonal().mean() * eye).diagonal()


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("damping", [0.01, 0.5])
def test_explicit_inverses_of_moments_taken_sample_by_sample(outputs: bool, damping: float) -> None:
    model, data = case()
    met: dict[str, Tensor] = {}
    slopes: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: met.__setitem__(name, args[0].detach().clone())
        )
        for name in LAYERS
    ]
    rows: dict[str, list[list[Tensor]]] = {name: [] for name in LAYERS}
    samples = [(x[at : at + 1], y[at : at + 1]) for x, y in data for at in range(len(x))]
    for sample, label in samples:
        kept: dict[str, Tensor] = {}
        tail = [
            model.get_submodule(name).register_forward_hook(
                lambda _, __, out, name=name, kept=kept: kept.__setitem__(name, out) or out.clone()
            )
            for name in LAYERS
        ]
        loss = F.cross_entropy(model(sample), label)
        for name, slope in zip(kept, torch.autograd.grad(loss, list(kept.values())), strict=True):
            slopes[name].append(slope)
        for handle in tail:
            handle.remove()
        for name in LAYERS:
            layer = model.get_submodule(name)
            rows[name].append(
                [inputs_one_by_one(layer, met[name], g) for g in range(getattr(layer, "groups", 1))]
            )
    for hook in hooks:
        hook.remove()
    parameters = dict(model.named_parameters())
    found = score(
        "obs",
        parameters,
        measured=measured("obs", model, parameters, data, outputs=outputs, damping=damping),
    )
    for name in LAYERS:
        weight = parameters[f"{name}.weight"].detach()
        groups = len(rows[name][0])
        every = len(weight) // groups
        for group in range(groups):
            x = torch.cat([each[group] for each in rows[name]])
            a = inverse_diagonal(x.T @ x / len(x), damping)
            g = torch.ones(every, dtype=torch.float64)
            if outputs:
                total = torch.zeros(every, every, dtype=torch.float64)
                for slope in slopes[name]:
                    flat = slope if name == "linear" else slope.movedim(1, -1)
                    flat = flat.reshape(-1, len(weight))[:, group * every : (group + 1) * every]
                    total += flat.T @ flat / len(slopes[name])
                g = inverse_diagonal(total, damping)
            own = slice(group * every, (group + 1) * every)
            expected = weight[own].flatten(1).square() / (2 * g[:, None] * a)
            torch.testing.assert_close(found[f"{name}.weight"][own].flatten(1), expected)
            if f"{name}.bias" in parameters:
                torch.testing.assert_close(
                    found[f"{name}.bias"][own], parameters[f"{name}.bias"][own].detach().square() / (2 * g)
                )
    for name in ("scale", "unreached.weight"):
        torch.testing.assert_close(found[name], parameters[name].detach().square() / 2)


def test_of_a_linear_model_the_score_is_the_loss_after_the_best_refit() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3, bias=False).double()
    x = torch.randn(40, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    found = score("obs", parameters, measured=measured("obs", model, parameters, [(x, None)], damping=0.0))[
        "weight"
    ]
    targets = model(x).detach()
    for row in range(3):
        for column in range(5):
            others = [at for at in range(5) if at != column]
            fitted = torch.linalg.lstsq(x[:, others], targets[:, row], driver="gelsd").solution
            rise = (x[:, others] @ fitted - targets[:, row]).square().mean() / 2
            assert float(found[row, column]) == pytest.approx(float(rise), rel=1e-9)


class Gaussian(nn.Module):
    """A linear model whose own loss is the squared error in another basis: the curvature is A ⊗ MᵀM exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3, bias=False)
        self.register_buffer("basis", torch.randn(3, 3))

    def forward(self, x: Tensor, noise: Tensor) -> Any:
        """Loss of targets drawn around the model's own outputs, for which Fisher and Hessian are one."""
        change = self.layer(x) - self.layer(x).detach() - noise
        return SimpleNamespace(loss=(change @ self.basis.T).square().sum(1).mean() / 2)


def test_with_outputs_the_score_is_the_rise_of_the_models_loss_when_all_weights_of_the_layer_adapt() -> None:
    torch.manual_seed(0)
    model = Gaussian().double()
    x = torch.randn(6, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64)
    # noise of covariance (MᵀM)⁻¹ exactly: every input meets the three columns of √3 M⁻¹, with both signs
    draws = 3**0.5 * torch.linalg.inv(model.basis).T
    noise = torch.cat([draws, -draws])
    data = [({"x": x.repeat_interleave(6, 0), "noise": noise.repeat(6, 1)}, None)]
    weight = {"layer.weight": model.layer.weight}
    found = score("obs", weight, measured=measured("obs", model, weight, data, damping=0.0, outputs=True))[
        "layer.weight"
    ]
    dense = model.layer.weight.detach()
    hessian = torch.kron(model.basis.T @ model.basis, x.T @ x / 6)  # of vec W, row after row
    inverse = torch.linalg.inv(hessian)
    for at in range(12):
        step = -dense.flatten()[at] / inverse[at, at] * inverse[:, at]
        rise = step @ hessian @ step / 2
        assert float((dense.flatten() + step)[at]) == pytest.approx(0, abs=1e-12)
        assert float(found.flatten()[at]) == pytest.approx(float(rise), rel=1e-9)


def test_a_layer_that_meets_nothing_or_moves_nothing_is_worth_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    parameters = dict(model.named_parameters())
    data = [(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))]
    found = score("obs", parameters, measured=measured("obs", model, parameters, data))
    assert not found["0.weight"].any()
    nn.init.zeros_(model[2].weight)
    data = [(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))]
    found = score("obs", parameters, measured=measured("obs", model, parameters, data, outputs=True))
    assert not found["0.weight"].any()
    assert not found["0.bias"].any()


@pytest.mark.parametrize("granularity", sorted(CRITERIA["obs"].granularities))
@pytest.mark.parametrize("outputs", [False, True])
def test_every_granularity_is_cut_by_it(granularity: str, outputs: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 16, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(48, 3)).eval()
    x, labels = torch.randn(6, 3, 16), torch.randint(3, (6,))
    made = secateur.prune(
        model,
        x,
        granularity={"n:m": "2:4", "block": "block:2x4"}.get(granularity, granularity),
        amount=0.5,
        criterion="obs",
        outputs=outputs,
        data=[(x, labels)],
    )
    assert made.achieved == pytest.approx(0.5, abs=0.1)


def test_what_can_not_be_measured_is_refused_in_a_sentence() -> None:
    model = nn.Linear(4, 3)
    parameters, x = dict(model.named_parameters()), torch.randn(5, 4)
    with pytest.raises(InputError, match="damping"):
        measured("obs", model, parameters, [(x, None)], damping=-1.0)
    with pytest.raises(InputError, match="NaN"):
        measured("obs", model, parameters, [(x * torch.nan, None)])
    with pytest.raises(InputError, match="labels"):
        measured("obs", model, parameters, [(x, None)], outputs=True)
    with pytest.raises(InputError, match="does not run"):
        measured("obs", model, parameters, [(torch.ones(2, 5), None)])


@pytest.mark.parametrize("name", ["obs", "taylor", "fisher"])
def test_keywords_that_hold_no_samples_go_with_all_of_them(name: str) -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, use_cache: bool, x: Tensor, factor: Tensor) -> Tensor:
            assert use_cache is False
            return self.layer(x) * factor

    torch.manual_seed(0)
    model, x, labels = Keywords(), torch.randn(6, 4), torch.randint(3, (6,))
    keywords = {"use_cache": False, "x": x, "factor": torch.tensor(1.0)}
    parameters = dict(model.named_parameters())
    own = {"outputs": True} if name == "obs" else {}
    found = score(name, parameters, measured=measured(name, model, parameters, [(keywords, labels)], **own))
    plain = nn.Linear(4, 3)
    plain.load_state_dict(model.layer.state_dict())
    expected = measured(name, plain, dict(plain.named_parameters()), [(x, labels)], **own)
    torch.testing.assert_close(
        found["layer.weight"], score(name, dict(plain.named_parameters()), measured=expected)["weight"]
    )
