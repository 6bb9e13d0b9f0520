"""A smaller model that computes anything else than the large one without its units is caught."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from cuts import cut_of
from structural_zoo import CASES, Case, run
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur.core.errors import ModelError, VerificationError
from secateur.graph.cut import Cut
from secateur.graph.trace import tensors_of
from secateur.pruning.result import Pruned
from secateur.shrink import verify as verification
from secateur.shrink.apply import apply
from secateur.shrink.make import plan_for
from secateur.shrink.plan import Plan
from secateur.shrink.verify import distance, verify

HALF = {"granularity": "channel", "amount": 0.5, "scope": "local"}


@functools.cache
def pruned(name: str) -> tuple[Case, Pruned, Cut]:
    """Cut half of every group of a small model; neither may be changed."""
    case = CASES[name]()
    result = secateur.prune(case.model, case.inputs, **HALF)
    return case, result, cut_of(result)


def half(model: nn.Module, inputs: Any) -> tuple[nn.Module, Plan, Cut]:
    """Cut the first half of every group; return the smaller model, its plan and the cut."""
    groups = secateur.analyze(model, inputs)
    units = [(group, np.arange(group.units) >= group.units // 2) for group in groups.free]
    assert units
    cut = Cut.of(groups.coupling, units)
    plan, failures = plan_for(model, cut)
    assert not failures
    return apply(model, plan), plan, cut


def steepest(model: nn.Module, inputs: Any) -> tuple[str, tuple[int, ...]]:
    """Return the weight that the outputs feel most: its tensor's name and its index."""
    outputs = tensors_of(run(model, inputs))
    sum(tensor.square().sum() for tensor in outputs if tensor.is_floating_point()).backward()
    grads = {
        name: p.grad.abs() for name, p in model.named_parameters() if p.grad is not None and p.numel() > 1
    }
    name = max(grads, key=lambda name: float(grads[name].max()))
    flat = int(grads[name].argmax())
    return name, tuple(int(at) for at in np.unravel_index(flat, grads[name].shape))


@pytest.mark.parametrize("name", CASES)
def test_one_changed_weight_is_caught(name: str) -> None:
    case, result, cut = pruned(name)
    small = apply(case.model, result.plan)
    again = verify(case.model, small, cut, case.inputs)
    assert again.error <= 1e-9
    assert (again.dtype, again.exact) == ("float64", result.verification.exact)
    tensor, index = steepest(small, case.inputs)
    with torch.no_grad():
        dict(small.named_parameters())[tensor][index] += 0.1
    with pytest.raises(VerificationError, match=r"^The smaller model differs from the large one"):
        verify(case.model, small, cut, case.inputs)


@pytest.mark.parametrize("name", CASES)
def test_two_kept_units_in_the_wrong_order_are_caught(name: str) -> None:
    case, result, cut = pruned(name)
    small = apply(case.model, result.plan)
    parameters = dict(small.named_parameters())
    for group in result.groups.free:
        if result.kept[group.name] < 2:
            continue
        sides = [m for m in group.members if m.name in parameters and parameters[m.name].shape[m.dim] > 1]
        if len({member.name for member in sides}) < 2:
            continue
        member = max(sides, key=lambda m: parameters[m.name].numel())
        unit = member.unit[result.plan.kept[member.name][member.dim].numpy()]
        one, other = (np.flatnonzero(unit == u) for u in np.unique(unit[unit >= 0])[:2])
        order = np.arange(len(unit))
        order[one], order[other] = order[other], order[one].copy()
        with torch.no_grad():
            tensor = parameters[member.name]
            tensor.copy_(tensor.index_select(member.dim, torch.from_numpy(order)))
        break
    else:
        raise AssertionError("no group has two units left and two sides: make the model larger")
    with pytest.raises(VerificationError, match=r"^The smaller model differs from the large one"):
        verify(case.model, small, cut, case.inputs)


def mlp(constant: float | None = None) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    if constant is not None:
        for parameter in model.parameters():
            nn.init.constant_(parameter, constant)
    return model, torch.randn(5, 4)


@pytest.mark.parametrize("constant", [None, 0.3])
def test_units_coupled_the_wrong_way_are_caught_even_among_equal_weights(constant: float | None) -> None:
    model, x = mlp(constant)
    small, _, cut = half(model, x)
    assert verify(model, small, cut, x).error <= 1e-9
    coupling = cut.coupling
    reader = coupling.program.tensors["2.weight"]
    coupling.dims[reader][1] = coupling.dims[reader][1][::-1].copy()
    wrong = Cut(coupling, cut.removed)
    plan, _ = plan_for(model, wrong)
    assert not torch.equal(plan.kept["2.weight"][1], plan.kept["0.weight"][0])
    with pytest.raises(VerificationError):
        verify(model, apply(model, plan), wrong, x)


def test_a_tensor_that_was_forgotten_is_caught() -> None:
    model, x = mlp()
    _, plan, cut = half(model, x)
    kept = {name: dict(dims) for name, dims in plan.kept.items()}
    kept["0.bias"] = {0: kept["0.bias"][0] - 1}
    wrong = Plan(kept, plan.shapes, plan.attributes, plan.overrides, plan.standins)
    with pytest.raises(VerificationError):
        verify(model, apply(model, wrong), cut, x)


def test_a_changed_entry_among_equal_ones_is_caught() -> None:
    model, x = mlp(0.3)
    small, _, cut = half(model, x)
    with torch.no_grad():
        small[2].weight[0, 0] += 1
    with pytest.raises(VerificationError):
        verify(model, small, cut, x)


class Between(nn.Module):
    """Two linear layers with `code` between them, which must stay outside of the groups."""

    def __init__(self, code: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.first, self.last, self.code = nn.Linear(4, 8), nn.Linear(8, 3), code
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.code(self, self.first(x)))


class Queries(nn.Module):
    """Learned queries: both their number and their features may be cut."""

    def __init__(self, code: Callable[..., Tensor]) -> None:
        super().__init__()
        self.queries, self.last = nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 3)
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.code(self, x[:, :1, None] * self.queries))


def layer_norm() -> nn.Module:
    norm = nn.LayerNorm(8)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    return norm


STATISTICS: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: Between(lambda m, h: m.norm(h), norm=layer_norm()),
    "layer norm without scale": lambda: Between(lambda m, h: F.layer_norm(h, h.shape[-1:])),
    "rms norm": lambda: Between(lambda m, h: m.norm(h), norm=nn.RMSNorm(8)),
    "one group": lambda: Between(lambda m, h: m.norm(h), norm=nn.GroupNorm(1, 8)),
    "softmax": lambda: Between(lambda m, h: h.softmax(-1)),
    "log softmax": lambda: Between(lambda m, h: F.log_softmax(h, 1)),
    "mean": lambda: Between(lambda m, h: h - h.mean(1, keepdim=True)),
    "mean of all": lambda: Between(lambda m, h: h * h.mean()),
    "standard deviation": lambda: Between(lambda m, h: h / h.std(1, keepdim=True)),
    "largest": lambda: Between(lambda m, h: h - (-h.abs()).amax(1, keepdim=True)),
    "log of a sum": lambda: Between(lambda m, h: h - h.logsumexp(1, keepdim=True)),
    "product": lambda: Between(lambda m, h: h * (h + 2).prod(1, keepdim=True)),
    "running sum": lambda: Between(lambda m, h: (h + 1).cumsum(1)),
    "mean of queries": lambda: Queries(lambda m, h: (h * h.mean(1, keepdim=True)).sum(1)),
    "softmax of queries": lambda: Queries(lambda m, h: (h * h.softmax(1)).sum(1)),
    "batch statistics over queries": lambda: Queries(
        lambda m, h: F.batch_norm(h.transpose(1, 2), None, None, training=True).sum(2)
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_run_over_what_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = STATISTICS[name](), torch.randn(5, 4)
    small, _, cut = half(model, x)
    proof = verify(model, small, cut, x)
    assert proof.error <= 1e-9
    assert not proof.exact
    assert "statistics over what stays" in str(proof)

    monkeypatch.setattr(verification, "crossing", lambda cut: {})  # over all, zeros included: another number
    with pytest.raises(VerificationError):
        verify(model, small, cut, x)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_changed_weight_is_caught_behind_a_statistic(name: str) -> None:
    torch.manual_seed(0)
    model, x = STATISTICS[name](), torch.randn(5, 4)
    small, _, cut = half(model, x)
    tensor, index = steepest(small, x)
    with torch.no_grad():
        dict(small.named_parameters())[tensor][index] += 0.1
    with pytest.raises(VerificationError):
        verify(model, small, cut, x)


EXACT: dict[str, Callable[[], nn.Module]] = {
    "batch norm in training": lambda: Between(lambda m, h: F.batch_norm(h, None, None, training=True)),
    "batch norm without statistics": lambda: Between(
        lambda m, h: m.norm(h), norm=nn.BatchNorm1d(8, track_running_stats=False)
    ),
    "groups that go whole": lambda: Between(lambda m, h: m.norm(h), norm=nn.GroupNorm(4, 8)),
    "over samples": lambda: Between(lambda m, h: h - h.mean(0) + h.softmax(0)),
}


@pytest.mark.parametrize("name", EXACT)
def test_no_statistic_over_units_is_exact(name: str) -> None:
    torch.manual_seed(0)
    model, x = EXACT[name](), torch.randn(5, 4)
    small, _, cut = half(model, x)
    proof = verify(model, small, cut, x)
    assert proof.exact
    assert proof.error <= 1e-9
    assert "(zeroed)" in str(proof)


@pytest.mark.parametrize("code", [lambda m, h: h.mean(1), lambda m, h: h.amax(1), lambda m, h: h.std(1)])
def test_a_statistic_that_drops_a_dimension_beside_another_that_is_cut(code: Callable[..., Tensor]) -> None:
    model, x = Queries(code), torch.randn(5, 4)
    small, _, cut = half(model, x)
    assert verify(model, small, cut, x).error <= 1e-9


def linear_attention(m: nn.Module, h: Tensor) -> Tensor:
    q, k = F.elu(h) + 1, F.elu(m.key(h)) + 1
    return q @ (k.mT @ h)


@pytest.mark.parametrize(
    "code",
    [
        lambda m, h: h.exp() / h.exp().sum(1, keepdim=True),
        lambda m, h: h * h.sigmoid().sum(1, keepdim=True),
        lambda m, h: h / (h + 1).norm(dim=1, keepdim=True),
    ],
    ids=["softmax by hand", "sum of gates", "shifted length"],
)
def test_sums_of_what_is_not_zero_without_the_unit(code: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Between(code, key=nn.Linear(8, 8)), torch.randn(5, 4)
    assert secateur.prune(model, x, **HALF).verification.error <= 1e-9


def test_products_of_what_is_not_zero_without_the_unit_are_left_alone() -> None:
    torch.manual_seed(0)
    model, x = Between(linear_attention, key=nn.Linear(8, 8)), torch.randn(5, 4)
    with pytest.raises(ModelError, match="sums products over it that are not zero"):
        secateur.prune(model, x, **HALF)


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, ValueError, KeyError, NotImplementedError])
def test_code_that_can_not_run_wide_is_compared_as_it_is(error: type[Exception]) -> None:
    def code(model: nn.Module, h: Tensor) -> Tensor:
        if h.dtype != torch.float32:
            raise error("only float32")
        return h.tanh()

    model, x = Between(code), torch.randn(5, 4)
    small, _, cut = half(model, x)
    proof = verify(model, small, cut, x)
    assert proof.dtype == "float32"
    assert proof.error <= 1e-5
    assert "in float32" in str(proof)
    with torch.no_grad():
        small.last.weight[0, 0] += 1
    with pytest.raises(VerificationError, match="differs from the large one"):
        verify(model, small, cut, x)


def test_a_smaller_model_that_does_not_run_is_refused() -> None:
    model, x = mlp()
    small, _, cut = half(model, x)
    small[2].weight = nn.Parameter(torch.randn(8, 5))
    with pytest.raises(VerificationError, match=r"^The smaller model could not be compared \("):
        verify(model, small, cut, x)


def test_another_number_of_outputs_or_another_shape_is_refused() -> None:
    model, x = mlp()
    small, _, cut = half(model, x)
    small.append(nn.Linear(3, 2))
    with pytest.raises(VerificationError, match="by inf of its largest output"):
        verify(model, small, cut, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_is_compared_in_float64(dtype: torch.dtype) -> None:
    model, x = mlp()
    model, x = model.to(dtype), x.to(dtype)
    small, _, cut = half(model, x)
    proof = verify(model, small, cut, x)
    assert (proof.dtype, proof.error <= 1e-12) == ("float64", True)


class Writes(nn.Module):
    """Writes to its input and its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()[0]
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("memory", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.memory.mul_(2)
        return self.layers(x.add_(1)) * self.calls + self.memory.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_left_behind(dtype: torch.dtype) -> None:
    model, x = Writes().to(dtype).train(), torch.ones(5, 4, dtype=dtype)
    small, _, cut = half(model, x)
    state = [{k: v.clone() for k, v in each.state_dict().items()} for each in (model, small)]
    random = torch.get_rng_state()
    verify(model, small, cut, x)
    assert torch.equal(x, torch.ones(5, 4, dtype=dtype))
    for each, before in zip((model, small), state, strict=True):
        torch.testing.assert_close(dict(each.state_dict()), before, rtol=0, atol=0)
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.requires_grad for parameter in model.parameters())


class Variational(nn.Module):
    """A variational autoencoder whose latent size may be cut; `draw` makes its sample of a mean and a deviation."""

    def __init__(self, draw: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(8, 6)
        self.decode, self.draw, self.width = nn.Linear(6, 3), draw, 6

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x).tanh()
        return self.decode(self.draw(self, self.mean(h), self.spread(h).exp()))


DRAWS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "like the spread": lambda m, mean, std: mean + std * torch.randn_like(std),
    "uniform like the spread": lambda m, mean, std: mean + std * torch.rand_like(std),
    "of an attribute": lambda m, mean, std: mean + std * torch.randn(len(mean), m.width),
    "of a literal": lambda m, mean, std: mean + std * torch.rand(len(mean), 6),
    "of a shape": lambda m, mean, std: mean + std * torch.randn(std.shape),
    "in place": lambda m, mean, std: mean + std * std.new_empty(std.size()).normal_(),
    "one for each feature": lambda m, mean, std: mean + std * torch.randn_like(std[:1]),
    "normal": lambda m, mean, std: torch.normal(mean, std),
    "normal of a number": lambda m, mean, std: torch.normal(0.5, std) + mean,
    "distribution": lambda m, mean, std: torch.distributions.Normal(mean, std).rsample(),
    "bernoulli": lambda m, mean, std: torch.bernoulli(mean.sigmoid()) * std,
    "dropout": lambda m, mean, std: F.dropout(mean, 0.5, training=True) * std,
    "fused dropout": lambda m, mean, std: torch.native_dropout(mean, 0.5, True)[0] * std,
    "twice": lambda m, mean, std: mean * torch.rand(len(std), 1) + std * torch.randn_like(std),
}


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_drawn_in_the_code_are_the_same_for_both(name: str) -> None:
    torch.manual_seed(0)
    model, x = Variational(DRAWS[name]), torch.randn(5, 4)
    small, plan, cut = half(model, x)
    assert plan.shape_after("decode.weight") == (3, 3)
    assert verify(model, small, cut, x).error <= 1e-9
    assert not torch.equal(small(x), small(x))
    with torch.no_grad():
        small.mean.weight[0, 0] += 0.1 if "bern" not in name else 5
    with pytest.raises(VerificationError, match="differs from the large one"):
        verify(model, small, cut, x)


def test_numbers_of_a_generator_of_its_own_are_a_constant() -> None:
    def draw(m: Any, mean: Tensor, std: Tensor) -> Tensor:
        return mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))

    result = secateur.prune(Variational(draw), torch.randn(5, 4), **HALF)
    assert result.kept["encode.weight"] == 4
    assert result.skipped["mean.weight"].startswith("it meets a size that must stay")


@pytest.mark.parametrize("batch", [0, None])
def test_nothing_to_compare_is_no_proof(batch: int | None) -> None:
    model, x = mlp()
    if batch is None:
        model.append(nn.Threshold(math.inf, math.nan))  # nothing but NaN comes out
    with pytest.raises(
        ModelError, match="returns on the example inputs can be compared: give inputs for which"
    ):
        secateur.prune(model, x[:batch], **HALF)
    assert secateur.prune(model, x[:batch], verify=False, **HALF).verification is None


class Finds(nn.Module):
    """Returns the rows that it is sure of, which are none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.score, self.norm, self.head = (
            nn.Linear(4, 8),
            nn.Linear(8, 1),
            layer_norm(),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.stem(x).tanh())
        return self.head(h[self.score(h)[:, 0].sigmoid() > 2])


def test_where_nothing_is_found_the_layers_are_compared() -> None:
    torch.manual_seed(0)
    model, x = Finds(), torch.randn(5, 4)
    assert not model(x).numel()
    small, _, cut = half(model, x)
    proof = verify(model, small, cut, x)
    assert (proof.inside, proof.compared) == (True, 5)
    assert "of the largest output of a layer, the model's own being empty" in str(proof)
    with torch.no_grad():
        small.stem.weight[0, 0] += 1
    with pytest.raises(VerificationError, match="differs from the large one"):
        verify(model, small, cut, x)


class Counted(nn.Module):
    """Computes with its own size, in a way no size of torch's own layers tells."""

    def __init__(self, number: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.last, self.number = nn.Linear(4, 8), nn.Linear(8, 3), number

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h * self.number(self, h)).tanh()


NUMBERS: dict[str, Callable[[Any, Tensor], Any]] = {
    "a size": lambda m, h: h.shape[1],
    "a power of a size": lambda m, h: h.shape[1] ** -0.5,
    "a power of an attribute": lambda m, h: m.first.out_features**-0.5,
    "an attribute": lambda m, h: m.last.in_features,
    "a length": lambda m, h: 1.0 * len(h[0]),
    "one over a size": lambda m, h: 1.0 / h.shape[1],
    "a plain integer of a size": lambda m, h: int(h.shape[1]),
    "a root under a name of its own": lambda m, h: sqrt(h.shape[1]),
    "a root of numpy": lambda m, h: float(np.sqrt(h.size(1))),
    "a logarithm": lambda m, h: math.log(m.first.weight.shape[0]),
    "a root of a count": lambda m, h: m.last.weight.numel() ** 0.5,
    "a tensor": lambda m, h: torch.tensor(float(m.first.out_features)).sqrt(),
    "a filled tensor": lambda m, h: torch.full((1,), 1.0 / h.shape[1]),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_made_from_a_size_keeps_its_value(name: str, verify: bool) -> None:
    torch.manual_seed(0)
    model, x = Counted(NUMBERS[name]), torch.randn(5, 4)
    result = secateur.prune(model, x, **HALF, verify=verify)
    assert result.model.first.weight.shape == (4, 4)
    large, kept = copy.deepcopy(model), result.plan.kept["first.weight"][0]
    with torch.no_grad():
        for gone in set(range(8)) - set(kept.tolist()):
            large.first.weight[gone], large.first.bias[gone] = 0, 0
    torch.testing.assert_close(result.model(x), large(x))


def test_a_number_that_a_hook_makes_from_a_size_keeps_the_size() -> None:
    torch.manual_seed(0)
    model, x = Counted(lambda m, h: 1.0), torch.randn(5, 4)
    model.register_forward_hook(lambda module, args, y: y / (1.0 * module.first.out_features))
    with pytest.raises(ModelError, match="computes with a number made from its size"):
        secateur.prune(model, x, **HALF)


def test_without_the_proof_a_smaller_model_runs_too() -> None:
    case = CASES["encoder_decoder"]()
    result = secateur.prune(case.model, case.inputs, **HALF, verify=False)
    assert result.verification is None
    assert run(result.model, case.inputs).shape == run(case.model, case.inputs).shape


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([], [], 0.0),
        ([[1.0, 2.0]], [[1.0, 2.0]], 0.0),
        ([[1.0, 2.0]], [[1.0, 3.0]], 0.5),
        ([[10.0], [1.0]], [[10.0], [2.0]], 1.0),
        ([[0.0, 0.0]], [[0.0, 0.25]], 0.25),
        ([[1.0]], [[1.0], [1.0]], math.inf),
        ([[1.0, 2.0]], [[1.0]], math.inf),
        ([[1.0, math.nan]], [[1.0, math.nan]], 0.0),
        ([[1.0, math.nan]], [[1.0, 2.0]], math.inf),
        ([[1.0, -math.inf]], [[1.0, -math.inf]], 0.0),
        ([[1.0, -math.inf, 2.0]], [[1.5, -math.inf, 2.0]], 0.25),
        ([[1, 2]], [[1, 4]], 1.0),
        ([[True, False]], [[True, True]], 1.0),
        ([[1j, 2.0]], [[1.0, 2.0]], math.sqrt(2) / 2),
    ],
)
def test_a_distance_is_the_largest_difference_over_the_largest_entry(
    left: list[Any], right: list[Any], expected: float
) -> None:
    tensors = [[torch.tensor(entries) for entries in side] for side in (left, right)]
    assert distance(*tensors) == pytest.approx(expected)
