"""Weights that modules compute from parameters: what counts is the tensor that the module works with."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm

import secateur
from secateur.core.computed import computed_tensors, plain
from secateur.core.errors import ModelError
from secateur.core.naming import bare
from secateur.criteria import CRITERIA
from secateur.graph.analyze import analyze
from secateur.importance import unit_scores
from secateur.measure import cost, statistics
from secateur.sparsity.targets import prunable

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3])
GRAINS = ["weight", "block:2x2", "2:4", "channel"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 4),
    ).eval()  # fmt: skip


class Times(nn.Module):
    """A parametrisation by a fixed mask, as beginners write them."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight * 2


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).mT


def some(shape: torch.Size) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.5


def old_weight_norm(module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(module)
    with torch.no_grad():
        module.weight_g.mul_(torch.linspace(0.2, 3, len(module.weight_g)).view_as(module.weight_g))  # type: ignore[operator, arg-type, union-attr]


def new_weight_norm(module: nn.Module) -> None:
    parametrizations.weight_norm(module)
    scale: Any = module.parametrizations.weight.original0  # type: ignore[union-attr]
    with torch.no_grad():
        scale.mul_(torch.linspace(0.2, 3, len(scale)).view_as(scale))


def twice(module: nn.Module) -> None:
    prune.random_unstructured(module, "weight", 0.3)
    prune.l1_unstructured(module, "weight", 0.4)


def masked_norm(module: nn.Module) -> None:
    new_weight_norm(module)
    parametrize.register_parametrization(module, "weight", Times(some(module.weight.shape).float()))


COMPUTED: dict[str, Callable[[Any], Any]] = {
    "unstructured": lambda module: prune.random_unstructured(module, "weight", 0.5),
    "structured": lambda module: prune.random_structured(module, "weight", 0.5, dim=0),
    "inputs": lambda module: prune.ln_structured(module, "weight", 0.5, n=2, dim=1),
    "twice": twice,
    "custom": lambda module: prune.custom_from_mask(module, "weight", some(module.weight.shape)),
    "weight norm": new_weight_norm,
    "old weight norm": old_weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": old_spectral_norm,
    "mask": lambda m: parametrize.register_parametrization(m, "weight", Times(some(m.weight.shape).float())),
    "scaled": lambda module: parametrize.register_parametrization(module, "weight", Half()),
    "masked norm": masked_norm,
}
EXACT = [name for name in COMPUTED if "spectral" not in name]
"""Those under which the weights that stay keep their values."""


def model_of(name: str, at: int = 2) -> nn.Sequential:
    model = net()
    torch.manual_seed(1)
    COMPUTED[name](model[at])
    return model.eval()


def freed(model: nn.Module) -> Any:
    """Return a copy that holds its weights as parameters, by torch's own functions."""
    model = copied(model)
    for module in model.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
        elif hasattr(module, "weight_mask"):
            prune.remove(module, "weight")
        elif hasattr(module, "weight_v") and hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
        elif hasattr(module, "weight_u"):
            nn.utils.remove_spectral_norm(module)
    return model


def copied(model: nn.Module) -> Any:
    from secateur.shrink.apply import copied as copy_of

    return copy_of(model)


def plainly(name: str) -> str:
    return bare(name).removesuffix("_g").replace("parametrizations.weight.original0", "weight")


def zeros(model: Any) -> int:
    return sum(int((layer.weight == 0).sum()) for layer in model if hasattr(layer, "weight"))


def weights(model: Any) -> int:
    return sum(layer.weight.numel() for layer in model if hasattr(layer, "weight"))


@pytest.mark.parametrize("name", COMPUTED)
def test_the_plain_form_computes_the_same_and_is_left_again(name: str) -> None:
    model, state = model_of(name), {}
    expected = model(X)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    with plain(model) as held:
        torch.testing.assert_close(held(X), expected)
        names = [key for key, _ in held.named_parameters()]
        assert names.count("2.weight") == 1
        assert not [key for key in held.state_dict() if key not in net().state_dict()]
        assert "2.weight" in prunable(held)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(model(X), expected)
    assert not list(computed_tensors(net()))


@pytest.mark.parametrize("name", COMPUTED)
def test_counts_are_those_of_the_effective_weights(name: str) -> None:
    model = model_of(name)
    held = freed(model)
    (row,) = [each for each in statistics(model).tensors if each.shape == (32, 16, 3, 3)]
    (other,) = [each for each in statistics(held).tensors if each.name == "2.weight"]
    assert (row.nonzero, row.dead_units, row.dead_inputs) == (
        other.nonzero,
        other.dead_units,
        other.dead_inputs,
    )
    assert row.kind == "Conv2d"
    if name in EXACT:
        assert cost(model, X[:1]).macs_nonzero == cost(held, X[:1]).macs_nonzero
    masks = secateur.Masks.of_zeros(model)
    assert masks.pruned == zeros(held)
    assert secateur.safe_rate(model).optimum == pytest.approx(secateur.safe_rate(held).optimum)
    assert secateur.safe_rate(model).kurtosis_of_kurtoses == secateur.safe_rate(held).kurtosis_of_kurtoses


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("amount", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("name", COMPUTED)
def test_an_amount_of_weights_counts_effective_zeros(name: str, amount: float, scope: str) -> None:
    model = model_of(name)
    before, state = zeros(freed(model)), {key: value.clone() for key, value in model.state_dict().items()}
    output = model(X)
    result = secateur.prune(model, amount=amount, scope=scope)
    small: Any = result.model
    least = max(round(amount * weights(net())), before if scope == "global" else 0)
    small(X)
    if scope == "global" or amount > 0.8:
        assert abs(zeros(small) - least) <= 2
    assert result.masks.pruned == zeros(small) or scope == "local"
    assert zeros(freed(small)) == zeros(small) >= before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(X), output)
    assert sorted(small.state_dict()) == sorted(state)
    assert bool(small(X).isfinite().all())
    assert result.summary()


@pytest.mark.parametrize("name", COMPUTED)
def test_a_cut_is_that_of_the_freed_model(name: str) -> None:
    model = model_of(name)
    expected = secateur.prune(freed(model), amount=0.7)
    for inplace in (False, True):
        found = secateur.prune(model, amount=0.7, inplace=inplace)
        carrier = next(key for key in found.masks if key.startswith("2."))
        assert carrier in dict(model.named_parameters())
        assert torch.equal(found.masks[carrier], expected.masks["2.weight"])
        assert torch.equal(found.masks["0.weight"], expected.masks["0.weight"])
        assert found.achieved == expected.achieved
        if name in EXACT:
            torch.testing.assert_close(found.model(X), expected.model(X))
        assert (found.model is model) == inplace


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
@pytest.mark.parametrize("name", ["old weight norm", "weight norm", "unstructured"])
def test_every_criterion_scores_the_effective_weights(name: str, criterion: str) -> None:
    model = model_of(name)
    held, kinds = freed(model), CRITERIA[criterion].granularities
    how: dict[str, Any] = {"criterion": criterion, "data": [(X, Y)], "amount": 0.6}
    if CRITERIA[criterion].rounds > 1:
        how["rounds"] = 2
    if "weight" in kinds:
        found, expected = (secateur.prune(each, X, **how) for each in (model, held))
        own = next(key for key in found.masks if key.startswith("2."))
        assert not bool((found.masks[own] & (held[2].weight == 0)).any())
        if name != "unstructured":  # whose masked weights go first
            assert float((found.masks[own] == expected.masks["2.weight"]).float().mean()) > 0.995
    if "channel" in kinds:
        groups, others = analyze(model, X), analyze(held, X)
        given: dict[str, Any] = {"data": [(X, Y)], "example_inputs": X}
        scores = unit_scores(model, groups.free, criterion, coupling=groups.coupling, **given)
        wanted = unit_scores(held, others.free, criterion, coupling=others.coupling, **given)
        if criterion != "refit":  # which looks at products of parameters alone
            assert {plainly(key) for key in scores} == set(wanted)
        for key, each in scores.items():
            torch.testing.assert_close(each, wanted[plainly(key)], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("criterion", ["magnitude", "random", "taylor", "fpgm", "activation"])
@pytest.mark.parametrize("reduction", ["mean", "first"])
def test_masked_filters_go_first_and_for_free(criterion: str, reduction: str) -> None:
    model = model_of("structured")
    expected = model(X)
    result = secateur.prune(
        model, X, granularity="channel", amount=0.5, scope="local", keep=["0", "8"], criterion=criterion,
        reduction=reduction, data=[(X, Y)], correct=False,
    )  # fmt: skip
    small: Any = result.model
    assert small[2].out_channels == 16
    assert bool((small[2].weight_mask == 1).all())
    torch.testing.assert_close(small(X), expected)


@pytest.mark.parametrize("name", COMPUTED)
def test_a_smaller_model_still_computes_its_weights(name: str) -> None:
    model = model_of(name)
    result = secateur.prune(model, X, granularity="channel", amount=0.5)
    small: Any = result.model
    assert type(small[2]).__name__ == type(model[2]).__name__
    assert sorted(small.state_dict()) == sorted(model.state_dict())
    assert result.verification is not None
    assert (
        freed(small)[2].weight.shape
        == small[2].weight.shape
        == (small[2].out_channels, small[2].in_channels, 3, 3)
    )
    loss = small.train()(X).square().sum()
    loss.backward()
    grown = [p for key, p in small.named_parameters() if key.startswith("2.")]
    assert any(p.grad is not None and bool(p.grad.any()) for p in grown)
    torch.testing.assert_close(freed(small.eval())(X), small(X))


def test_the_norm_is_not_ignored() -> None:
    """Of equal directions, the filters of the smallest norm g go."""
    model = net()
    with torch.no_grad():
        model[2].weight.copy_(model[2].weight[:1].expand(32, -1, -1, -1))
    new_weight_norm(model[2])
    for how in ({"criterion": "magnitude"}, {"criterion": "l1"}, {"criterion": "filter_max"}):
        if how["criterion"] in CRITERIA:
            result = secateur.prune(
                model,
                X,
                granularity="channel",
                amount=0.5,
                scope="local",
                keep=["0", "8"],
                reduction="first",
                **how,
            )
            assert result.plan is not None
            kept = result.plan.kept["2.parametrizations.weight.original1"][0]
            assert kept.tolist() == list(range(16, 32))


@pytest.mark.parametrize("name", ["weight norm", "old weight norm"])
def test_rows_that_are_cut_whole_under_weight_norm(name: str) -> None:
    model = model_of(name)
    masks = secateur.Masks(
        {key: torch.arange(32).view(32, 1, 1, 1).expand(32, 16, 3, 3) >= 8 for key, p in model.named_parameters()
         if p.shape == (32, 16, 3, 3)}
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    with masks.hold(model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
    weight = freed(model)[2].weight
    assert bool((weight[:8] == 0).all())
    assert int((weight[8:] == 0).sum()) == 0
    assert bool(model(X).isfinite().all())
    result = secateur.prune(model, amount=0.9, layers=["2"])
    assert zeros(freed(result.model)) == round(0.9 * 32 * 144)
    assert bool(result.model(X).isfinite().all())


@pytest.mark.parametrize("name", COMPUTED)
def test_held_cuts_stay_zero_in_training(name: str) -> None:
    result = secateur.prune(model_of(name), amount=0.7)
    optimizer = torch.optim.Adam(result.model.parameters(), 0.01)
    with result.masks.hold(result.model, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(result.model.train()(X), Y).backward()
            optimizer.step()
    held = freed(result.model.eval())
    for key, mask in result.masks.items():
        assert bool((held[int(key[0])].weight[~mask] == 0).all())


@pytest.mark.parametrize("grain", ["block:2x2", "2:4"])
@pytest.mark.parametrize("name", ["unstructured", "weight norm", "mask"])
def test_blocks_and_patterns(name: str, grain: str) -> None:
    model = model_of(name)
    how = {} if grain == "2:4" else {"amount": 0.5}
    found, expected = (secateur.prune(each, granularity=grain, **how) for each in (model, freed(model)))
    key = next(key for key in found.masks if key.startswith("2."))
    assert torch.equal(found.masks[key], expected.masks["2.weight"] & (freed(model)[2].weight != 0))
    torch.testing.assert_close(found.model(X), expected.model(X))


@pytest.mark.parametrize("pattern", ["2", "2.weight", "2.weight_orig", "*_orig"])
def test_layers_go_by_any_of_their_names(pattern: str) -> None:
    model = model_of("unstructured")
    found = secateur.prune(model, amount=0.8, layers=[pattern])
    assert list(found.masks) == ["2.weight_orig"]
    assert "2.weight_orig" not in secateur.prune(model, amount=0.5, keep=pattern).masks
    by_tensor = secateur.prune(model, amount=0.8, layers=[model[2].weight_orig, model[0]])
    assert list(by_tensor.masks) == ["0.weight", "2.weight_orig"]


@pytest.mark.parametrize("given", ["2.weight", "2.weight_orig"])
def test_earlier_masks(given: str) -> None:
    model = model_of("unstructured")
    earlier = secateur.Masks({given: some(torch.Size((32, 16, 3, 3)))})
    found = secateur.prune(model, amount=0.9, masks=earlier)
    cut = ~earlier[given] | (model[2].weight_mask == 0)
    assert not bool((found.masks["2.weight_orig"] & cut).any())


def test_torchs_own_functions_go_on_after_a_cut() -> None:
    result = secateur.prune(model_of("unstructured"), amount=0.6)
    small: Any = result.model
    before = int((small[2].weight == 0).sum())
    prune.l1_unstructured(small[2], "weight", 100)
    assert int((small[2].weight == 0).sum()) == before + 100
    prune.remove(small[2], "weight")
    assert int((small[2].weight == 0).sum()) == before + 100
    result.masks.apply_(small)  # names of before
    assert int((small[2].weight == 0).sum()) == before + 100


def orthogonal(module: Any) -> None:
    parametrizations.orthogonal(module)


def low_rank(module: Any) -> None:
    class Product(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a @ b

        def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
            u, s, v = torch.linalg.svd(weight, full_matrices=False)
            return u * s, v

    parametrize.register_parametrization(module, "weight", Product(), unsafe=True)


def symmetric(module: Any) -> None:
    parametrize.register_parametrization(module, "weight", Symmetric())


@pytest.mark.parametrize("compute", [orthogonal, low_rank, symmetric])
def test_computations_without_single_zeros_are_named(compute: Callable[[Any], None]) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    compute(model[0])
    with pytest.raises(
        ModelError, match=r'0\.weight is computed by \w+.*remove_parametrizations\(module, "weight"\)'
    ):
        secateur.prune(model, amount=0.5)
    assert list(secateur.prune(model, amount=0.5, keep=["0"]).masks) == ["2.weight"]
    parametrize.remove_parametrizations(model[0], "weight")
    assert secateur.prune(model, amount=0.5).masks.pruned == 36


def test_weights_of_recurrent_layers_and_biases() -> None:
    torch.manual_seed(0)
    model = nn.LSTM(4, 6, batch_first=True)
    parametrizations.weight_norm(model, "weight_hh_l0")
    head = nn.Linear(6, 3)
    prune.random_unstructured(head, "bias", 1)
    prune.random_unstructured(head, "weight", 0.5)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = model, head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    both, x = Both(), torch.randn(2, 5, 4)
    expected = both(x)
    with plain(both):
        torch.testing.assert_close(both(x), expected)
    result = secateur.prune(both, amount=0.5)
    assert sorted(result.masks) == [
        "head.weight_orig", "lstm.parametrizations.weight_hh_l0.original1", "lstm.weight_ih_l0"
    ]  # fmt: skip
    assert bool(result.model(x).isfinite().all())
    everything = secateur.prune(both, amount=0.5, include="all")
    assert "head.bias_orig" in everything.masks
    assert not any("original0" in name for name in everything.masks)


def test_compensation_of_computed_weights() -> None:
    for name in ("unstructured", "weight norm", "old weight norm", "mask"):
        model = model_of(name)
        found, expected = (
            secateur.prune(each, X, amount=0.7, data=[(X, None)], compensation="reconstruct", damping=0.1)
            for each in (model, freed(model))
        )
        torch.testing.assert_close(found.model(X), expected.model(X), rtol=1e-3, atol=1e-4)


def test_layers_are_scored_by_what_they_work_with() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.linear(x).relu()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), *[Residual() for _ in range(4)], nn.Linear(6, 2))
    prune.l1_unstructured(model[3].linear, "weight", 0.99)
    result = secateur.prune(model, torch.randn(2, 4), granularity="layer", amount=0.25)
    assert result.plan is not None
    assert list(result.plan.skipped) == ["3"]


def test_a_tied_model_and_copies_keep_their_gradients() -> None:
    model = model_of("unstructured")
    model(X).sum().backward()
    again = copied(model)
    assert torch.equal(again[2].weight_orig.grad, model[2].weight_orig.grad)
    assert again[2].weight.data_ptr() != model[2].weight.data_ptr()
    deep = copy.deepcopy(freed(model))
    assert zeros(deep) == zeros(model)


@pytest.mark.parametrize("name", ["unstructured", "weight norm", "old weight norm"])
def test_pruning_while_training_counts_and_ranks_the_effective_weights(name: str) -> None:
    model = model_of(name)
    expected = secateur.prune(model, amount=0.7)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    masks = secateur.methods.start("gradual", model, optimizer, steps=0, amount=0.7).finish()
    assert masks.keys() == expected.masks.keys()
    assert all(torch.equal(masks[key], expected.masks[key]) for key in masks)
    assert zeros(freed(model)) == zeros(freed(expected.model))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_weight_norm_along_any_dimension(kind: Any, dim: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(kind(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    parametrizations.weight_norm(model[0], dim=dim)
    result = secateur.prune(model, X, granularity="channel", amount=0.5)
    assert result.model[0].out_channels == 4  # type: ignore[index, union-attr]
    assert result.verification is not None
