"""Pruning a model: every criterion with every scope, on models of every kind."""

from __future__ import annotations

import copy
import math
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import models
from secateur.core.errors import InputError, ModelError
from secateur.criteria import CRITERIA, sources
from secateur.pruning.allocate_weights import SCOPES
from secateur.pruning.api import prune
from secateur.sparsity.masks import Masks

EVERY = sorted(name for name in CRITERIA if "weight" in CRITERIA[name].granularities)
MEASURED = sorted(name for name in EVERY if "data" in sources(name))
"""Criteria that need data."""

SIGNED = {"grasp", "obd"}
"""Criteria whose scores may be negative, which the scope lamp refuses."""

CRITERION = pytest.mark.parametrize("criterion", EVERY)
SCOPE = pytest.mark.parametrize("scope", sorted(SCOPES))
PAIR = pytest.mark.parametrize(
    ("criterion", "scope"),
    [
        (criterion, scope)
        for criterion in EVERY
        for scope in sorted(SCOPES)
        if scope != "lamp" or criterion not in SIGNED
    ],
)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 6)
    ).to(dtype)


def data(criterion: str, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]] | None:
    """Two batches that `net` runs, where `criterion` needs data."""
    if criterion not in MEASURED:
        return None
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 3, 6, 6, generator=draw).to(dtype), torch.randint(6, (size,), generator=draw))
        for size in (4, 3)
    ]


def asked(criterion: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What `prune` needs for `criterion` on `net`; three rounds where it takes many."""
    return {
        "criterion": criterion,
        "data": data(criterion, dtype),
        "example_inputs": torch.ones(1, 3, 6, 6, dtype=dtype)
        if "example_inputs" in sources(criterion)
        else None,
        "rounds": min(3, CRITERIA[criterion].rounds),
    }


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


# --- every criterion with every scope ----------------------------------------------------------------------


@PAIR
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("amount", [0.0, 0.37, 0.9, 1.0])
def test_exactly_the_amount_goes_and_nothing_else_changes(
    criterion: str, scope: str, dtype: torch.dtype, amount: float
) -> None:
    model = net(dtype=dtype)
    before = state(model)
    result = prune(model, amount=amount, scope=scope, **asked(criterion, dtype), allow_empty=amount == 1)
    assert same(state(model), before)
    sizes = {name: mask.numel() for name, mask in result.masks.items()}
    assert sizes == {"0.weight": 216, "2.weight": 288, "4.weight": 96}
    each = {name: sizes[name] - int(mask.sum()) for name, mask in result.masks.items()}
    if scope == "local":
        assert each == {name: round(amount * size) for name, size in sizes.items()}
    else:
        assert result.masks.pruned == sum(each.values()) == round(amount * 600)
    assert result.achieved == sum(each.values()) / 600
    assert result.requested == amount
    after = state(result.model)
    for name, tensor in before.items():
        expected = tensor.masked_fill(~result.masks[name], 0) if name in result.masks else tensor
        assert torch.equal(after[name], expected)
        assert after[name].dtype == tensor.dtype


@PAIR
def test_constant_models_are_cut_exactly_too(criterion: str, scope: str) -> None:
    model = net()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    for amount in (0.001, 0.5, 0.999):
        result = prune(model, amount=amount, scope=scope, **asked(criterion), allow_empty=True)
        local = sum(round(amount * size) for size in (216, 288, 96))
        assert result.masks.pruned == (local if scope == "local" else round(amount * 600))


@PAIR
def test_the_same_call_gives_the_same_masks(criterion: str, scope: str) -> None:
    one, other = (prune(net(), amount=0.5, scope=scope, **asked(criterion), seed=4).masks for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@PAIR
@given(first=st.floats(0, 1), second=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_earlier_cuts_stay_and_count_towards_the_amount(
    criterion: str, scope: str, first: float, second: float
) -> None:
    first, second = sorted([first, second])
    choice: dict[str, Any] = {"scope": scope, **asked(criterion), "allow_empty": True}
    once = prune(net(), amount=first, **choice, seed=1)
    regrown = net(seed=5)  # even where the cut weights have grown back
    twice = prune(regrown, amount=second, **choice, seed=2, masks=once.masks)
    assert all(not bool((twice.masks[name] & ~once.masks[name]).any()) for name in twice.masks)
    local = sum(round(second * size) for size in (216, 288, 96))
    assert twice.masks.pruned == (local if scope == "local" else round(second * 600))
    for name, mask in twice.masks.items():
        assert (twice.model.get_parameter(name)[~mask] == 0).all()


@PAIR
def test_less_than_is_cut_already_is_refused(criterion: str, scope: str) -> None:
    choice: dict[str, Any] = {"scope": scope, **asked(criterion)}
    earlier = prune(net(), amount=0.5, **choice).masks
    with pytest.raises(InputError, match="already"):
        prune(net(), amount=0.4, **choice, masks=earlier)


def test_only_what_may_be_cut_counts() -> None:
    earlier = prune(net(), amount=1.0, layers=["4"], allow_empty=True).masks
    result = prune(net(), amount=0.5, keep=["4"], masks=earlier)
    assert result.achieved == 0.5
    assert list(result.masks) == ["0.weight", "2.weight", "4.weight"]
    assert not result.masks["4.weight"].any()
    assert (result.model[4].weight == 0).all()
    assert result.masks["0.weight"].logical_not().sum() + result.masks["2.weight"].logical_not().sum() == 252


@pytest.mark.parametrize("norm", ["l1", "l2"])
@SCOPE
def test_the_norms_of_magnitude_cut_alike(scope: str, norm: str) -> None:
    model = net()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-30)  # squares underflow in float32
    expected = prune(net(), amount=0.6, scope=scope).masks
    result = prune(model, amount=0.6, scope=scope, norm=norm)
    assert result.choices["norm"] == norm
    assert all(torch.equal(result.masks[name], expected[name]) for name in expected)


@SCOPE
def test_random_cuts_follow_the_seed(scope: str) -> None:
    masks = [prune(net(), amount=0.5, criterion="random", scope=scope, seed=seed).masks for seed in (0, 0, 1)]
    assert torch.equal(masks[0]["2.weight"], masks[1]["2.weight"])
    assert not torch.equal(masks[0]["2.weight"], masks[2]["2.weight"])


def test_random_cuts_of_a_layer_do_not_depend_on_the_others() -> None:
    everything = prune(net(), amount=0.5, criterion="random", scope="local").masks
    alone = prune(net(), amount=0.5, criterion="random", scope="local", layers=["2"]).masks
    assert torch.equal(alone["2.weight"], everything["2.weight"])


def test_global_magnitude_against_a_plain_sort() -> None:
    model = net()
    entries = [
        (abs(float(value)), position)
        for position, value in enumerate(torch.cat([model[i].weight.detach().flatten() for i in (0, 2, 4)]))
    ]
    cut = {position for _, position in sorted(entries)[: round(0.73 * 600)]}
    masks = prune(model, amount=0.73).masks
    kept = torch.cat([masks[f"{i}.weight"].flatten() for i in (0, 2, 4)]).tolist()
    assert kept == [position not in cut for position in range(600)]


# --- criteria that need data -------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", MEASURED)
@pytest.mark.parametrize("choice", [{"amount": 0.5}, {"granularity": "2:4"}], ids=str)
@pytest.mark.parametrize(
    ("nothing", "sentence"),
    [(None, "needs the .* on some data: pass"), ([], "The data holds no batch: pass")],
)
def test_without_data_they_are_refused(
    criterion: str, choice: dict[str, Any], nothing: Any, sentence: str
) -> None:
    model = net()
    before = state(model)
    with pytest.raises(InputError, match=sentence):
        prune(model, criterion=criterion, data=nothing, inplace=True, **choice)
    assert same(state(model), before)


@pytest.mark.parametrize("criterion", MEASURED)
@pytest.mark.parametrize("choice", [{"amount": 0.5}, {"granularity": "2:4"}], ids=str)
def test_data_may_come_one_batch_after_the_other(criterion: str, choice: dict[str, Any]) -> None:
    expected = prune(net(), **asked(criterion), **choice).masks
    masks = prune(net(), **{**asked(criterion), "data": iter(data(criterion) or ())}, **choice).masks
    assert masks.keys() == expected.keys()
    assert all(torch.equal(masks[name], expected[name]) for name in expected)


@pytest.mark.parametrize("criterion", MEASURED)
@pytest.mark.parametrize("choice", [{"amount": 0.5}, {"granularity": "2:4"}], ids=str)
def test_frozen_weights_are_cut_like_others_and_measuring_leaves_no_trace(
    criterion: str, choice: dict[str, Any]
) -> None:
    expected = prune(net(), **asked(criterion), **choice).masks
    model = net().requires_grad_(False)
    model[4].requires_grad_(True)
    model[4].weight.grad = torch.ones(6, 16)
    model[1].eval()
    before = state(model)
    result = prune(model, **asked(criterion), **choice)
    assert all(torch.equal(result.masks[name], expected[name]) for name in expected)
    assert same(state(model), before)  # the statistics of the BatchNorm too
    for each in (model, result.model):
        assert [p.requires_grad for p in each.parameters()] == [False] * 5 + [True] * 2
        assert [module.training for module in each] == [True, False, True, True, True]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["4.weight"]
    assert (model[4].weight.grad == 1).all()


def test_taylor_against_one_backward_pass_and_a_plain_sort() -> None:
    batches = data("taylor", torch.float64)
    assert batches is not None
    model = net(dtype=torch.float64).eval()
    images, labels = map(torch.cat, zip(*batches, strict=True))
    F.cross_entropy(model(images), labels).backward()
    scores = {f"{i}.weight": model[i].weight.detach() * model[i].weight.grad for i in (0, 2, 4)}
    ranked = sorted(abs(float(value)) for tensor in scores.values() for value in tensor.flatten())
    limit = ranked[round(0.73 * 600)]
    masks = prune(net(dtype=torch.float64), amount=0.73, criterion="taylor", data=batches).masks
    assert all(torch.equal(mask, scores[name].abs() >= limit) for name, mask in masks.items())
    masks = prune(net(dtype=torch.float64), granularity="2:4", criterion="taylor", data=batches).masks
    for name, mask in masks.items():
        groups = scores[name].abs().unflatten(1, (-1, 4))
        assert torch.equal(mask.unflatten(1, (-1, 4)), groups >= groups.sort(dim=2).values[:, :, 2:3])


# --- the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_every_architecture_is_pruned_and_still_runs(name: str) -> None:
    model = models.build(name)
    result = prune(model, amount=0.8, inplace=True)
    assert result.masks.pruned == round(0.8 * result.masks.total)
    inputs = torch.randn(2, *models.MODELS[name].input_shape)
    assert result.model(inputs).isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_the_copy_is_like_the_original(training: bool) -> None:
    class Mine(nn.Linear):
        """A class of the user's."""

    model = Mine(8, 4).train(training)
    model.bias.requires_grad_(False)
    model.remark = {"by": "the user"}
    result = prune(model, amount=0.5)
    assert type(result.model) is Mine
    assert result.model is not model
    assert result.model.training is training
    assert result.model.weight.requires_grad
    assert not result.model.bias.requires_grad
    assert result.model.remark == model.remark
    assert result.model.weight.data_ptr() != model.weight.data_ptr()
    assert result.model.state_dict().keys() == model.state_dict().keys()


def test_inplace_prunes_the_model_itself() -> None:
    model = net()
    weight = model[4].weight
    result = prune(model, amount=0.5, inplace=True)
    assert result.model is model
    assert model[4].weight is weight
    assert sum(int((p == 0).sum()) for p in (model[0].weight, model[2].weight, model[4].weight)) == 300


def test_channels_last_stays_channels_last_and_changes_no_mask() -> None:
    expected = prune(net(), amount=0.5).masks
    result = prune(net().to(memory_format=torch.channels_last), amount=0.5)
    assert result.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(result.masks[name], expected[name]) for name in expected)


def test_tied_parameters_are_cut_once_and_stay_tied() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
    model["c"].weight = model["a"].weight
    result = prune(model, amount=0.5)
    assert result.masks.total == 32
    assert result.model["c"].weight is result.model["a"].weight


@pytest.mark.parametrize(
    ("include", "size"),
    [
        ("weights", 600),
        ("biases", 10),
        ("norms", 16),
        (("weights", "biases"), 610),
        (["weights", "norms"], 616),
        ("all", 626),
    ],
)
def test_roles_come_in_by_include(include: Any, size: int) -> None:
    result = prune(net(), amount=0.5, include=include)
    assert result.masks.total == size
    assert result.masks.pruned == round(0.5 * size)
    assert result.choices["include"] == ((include,) if isinstance(include, str) else tuple(include))


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"keep": ["0"]}, ["2.weight", "4.weight"]),
        ({"keep": "4"}, ["0.weight", "2.weight"]),
        ({"keep": ["[02]*"]}, ["4.weight"]),
        ({"layers": "4"}, ["4.weight"]),
        ({"layers": ["?.weight"], "keep": ["2.weight"]}, ["0.weight", "4.weight"]),
    ],
)
def test_layers_by_name_and_glob(choice: dict[str, Any], names: list[str]) -> None:
    result = prune(net(), amount=0.5, **choice)
    assert list(result.masks) == names
    assert result.masks.pruned == round(0.5 * result.masks.total)


def test_a_pruned_model_trains_on_with_two_more_lines() -> None:
    result = prune(net(), amount=0.8)
    optimizer = torch.optim.SGD(result.model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    result.masks.hold(result.model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        result.model(torch.randn(4, 3, 6, 6)).square().sum().backward()
        optimizer.step()
    assert Masks.of_zeros(result.model).pruned == 480


def test_a_model_that_cannot_be_copied_is_pruned_in_place_or_refused() -> None:
    model = net()
    model.lock = threading.Lock()
    with pytest.raises(
        ModelError, match=r"^Sequential can't be copied \(.*\): prune it itself, with inplace=True\.$"
    ):
        prune(model, amount=0.5)
    assert prune(model, amount=0.5, inplace=True).model is model


def test_the_result_says_what_was_done() -> None:
    result = prune(net(), amount=0.5, scope="erk", keep=["0"], seed=3, norm="l2")
    assert result.choices == {
        "granularity": "weight",
        "criterion": "magnitude",
        "compensation": "drop",
        "correct": False,
        "norm": "l2",
        "scope": "erk",
        "amount": 0.5,
        "include": ("weights",),
        "keep": ("0",),
        "layers": (),
        "seed": 3,
        "rounds": 1,
        "schedule": "exponential",
        "allow_empty": False,
    }
    summary = result.summary()
    assert "removed 192 of 384 prunable weights (50.00%, requested 50.00%)" in summary
    assert "weight pruning by magnitude, scope erk" in summary
    assert len(summary.splitlines()) == 4


def test_an_empty_layer_has_its_line_in_the_summary() -> None:
    model = nn.Sequential(nn.Linear(4, 0), nn.Linear(4, 4))
    assert "0.weight" in prune(model, amount=0.5).summary()


# --- patterns ----------------------------------------------------------------------------------------------


@CRITERION
@pytest.mark.parametrize("pattern", ["1:4", "2:4", "4:8", "1:2"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_patterns_keep_exactly_n_of_m(criterion: str, pattern: str, dtype: torch.dtype) -> None:
    n, m = map(int, pattern.split(":"))
    result = prune(net(dtype=dtype), granularity=pattern, **asked(criterion, dtype))
    assert list(result.masks) == ["2.weight", "4.weight"]
    assert list(result.skipped) == ["0.weight"]
    assert result.skipped["0.weight"] == f"its input size 3 is not a multiple of {m}"
    assert "left alone" in result.summary()
    for mask in result.masks.values():
        for start in range(0, mask.shape[1], m):
            assert (mask[:, start : start + m].sum(1) == n).all()
    assert result.achieved == result.requested == 1 - n / m
    assert result.choices["scope"] == "local"
    assert torch.equal(result.model[0].weight, net(dtype=dtype)[0].weight)


def test_magnitude_patterns_keep_the_largest() -> None:
    model = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.1, -3.0, 2.0, -0.2], [1.0, 1.0, 1.0, 1.0]]))
    assert prune(model, granularity="2:4").model.weight.tolist() == [[0, -3, 2, 0], [0, 0, 1, 1]]


def test_patterns_respect_earlier_cuts_as_far_as_they_go() -> None:
    earlier = prune(net(), amount=0.6, criterion="random").masks
    result = prune(net(), granularity="2:4", masks=earlier)
    assert list(result.masks) == ["2.weight", "4.weight", "0.weight"]
    left = earlier["4.weight"].unflatten(1, (-1, 4)).sum(2)
    assert torch.equal(result.masks["4.weight"].unflatten(1, (-1, 4)).sum(2), left.clamp(max=2))
    assert torch.equal(result.masks["0.weight"], earlier["0.weight"])
    fitted = [result.masks[name] for name in ("2.weight", "4.weight")]
    assert result.achieved == sum(m.numel() - int(m.sum()) for m in fitted) / 384 > 0.5


def test_vectors_under_a_pattern_are_left_alone() -> None:
    result = prune(net(), granularity="2:4", include="all")
    assert result.skipped["4.bias"] == "it has no input dimension"


def test_a_pattern_may_repeat_its_amount_and_nothing_else() -> None:
    assert prune(net(), granularity="1:4", amount=0.75).achieved == 0.75
    with pytest.raises(InputError, match="The pattern 1:4 removes 75% by itself: leave amount out"):
        prune(net(), granularity="1:4", amount=0.5)


def test_a_pattern_that_fits_no_layer_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"No layer fits the pattern 2:7: 0\.weight does not, its input size 3"
    ):
        prune(net(), granularity="2:7")


# --- nonsense ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [-0.1, 1.7, math.nan, math.inf, "half", True])
@pytest.mark.parametrize("granularity", ["weight", "2:4"])
def test_amounts_that_make_no_sense_are_refused(amount: Any, granularity: str) -> None:
    with pytest.raises(InputError, match=r"is not a number between 0 and 1: .*\.$"):
        prune(net(), amount=amount, granularity=granularity)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({}, "Say how much to remove"),
        ({"amount": 0.5, "criterion": "magic"}, "There is no criterion named 'magic'"),
        ({"amount": 0.5, "criterion": None}, "There is no criterion named 'None'"),
        ({"amount": 0.5, "scope": "cosmic"}, "There is no scope named 'cosmic'"),
        ({"granularity": "2:4", "scope": "cosmic"}, "There is no scope named 'cosmic'"),
        ({"amount": 0.5, "include": "heads"}, "There is no role 'heads'"),
        ({"amount": 0.5, "granularity": "column"}, "There is no granularity 'column'"),
        ({"granularity": "5:4"}, "The pattern 5:4 makes no sense"),
        ({"granularity": "0:4"}, "The pattern 0:4 makes no sense"),
        ({"amount": 0.5, "keep": "nowhere"}, "No layer with parameters matches 'nowhere'"),
        ({"amount": 0.5, "norm": "l7"}, "There is no norm 'l7'"),
        ({"amount": 0.5, "speed": 3}, "The criterion magnitude has no option 'speed'"),
        ({"amount": 0.5, "masks": {"9.weight": torch.ones(1) > 0}}, "a mask for 9.weight"),
        ({"amount": 0.5, "masks": {"0.weight": torch.ones(1) > 0}}, "these masks belong to another model"),
        ({"amount": 0.5, "masks": {"0.weight": torch.ones(8, 3, 3, 3)}}, "masks are boolean"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choice: dict[str, Any], sentence: str) -> None:
    model = net()
    before = state(model)
    with pytest.raises(InputError, match=sentence) as caught:
        prune(model, **choice, inplace=True)
    assert same(state(model), before)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@PAIR
def test_weights_that_are_no_numbers_are_refused(criterion: str, scope: str, bad: float) -> None:
    model = net()
    with torch.no_grad():
        model[2].weight[0, 0, 0, 0] = bad
    choice: dict[str, Any] = {"scope": scope, **asked(criterion)}
    with pytest.raises(ModelError, match=r"2\.weight holds NaN or infinite weights"):
        prune(model, amount=0.5, **choice)
    if sources(criterion):  # on outputs that are no numbers either
        with pytest.raises(InputError, match="NaN or infinity"):
            prune(model, amount=0.5, **choice, keep=["2"])
    else:
        pruned = prune(model, amount=0.5, **choice, keep=["2"])
        assert not pruned.model[2].weight.isfinite().all()


@pytest.mark.parametrize("model", [nn.Sequential(), nn.ReLU(), nn.LayerNorm(4), nn.Linear(0, 3)])
def test_models_with_nothing_to_prune_are_refused(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="nothing to prune"):
        prune(model, amount=0.5)


@pytest.mark.parametrize(
    "model", [None, nn.Linear, nn.Linear(2, 2).state_dict()], ids=["None", "class", "dict"]
)
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(InputError, match=r"A model is a torch\.nn\.Module"):
        prune(model, amount=0.5)


def test_the_package_gives_the_same_function() -> None:
    assert secateur.prune is prune
    model = net()
    assert same(
        state(secateur.prune(model, amount=0.3).model), state(prune(copy.deepcopy(model), amount=0.3).model)
    )


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_layers_are_kept_and_chosen_by_themselves_too(granularity: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    x, cut = torch.ones(1, 4), {"granularity": granularity, "amount": 0.5}
    for layers, named in (([model[0]], ["0"]), (model[4].weight, "4.weight"), (model[4:], ["4"])):
        by_itself = secateur.prune(model, x, keep=layers, **cut)
        by_name = secateur.prune(model, x, keep=named, **cut)
        assert by_itself.choices["keep"] == by_name.choices["keep"]
        for one, other in zip(by_itself.model.parameters(), by_name.model.parameters(), strict=True):
            assert torch.equal(one, other)
    chosen = secateur.prune(model, x, layers=[model[0]], **cut)
    assert chosen.choices["layers"] == ("0",)
