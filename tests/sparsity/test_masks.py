"""Masks: a value that validates itself, zeroes a model, and keeps it zero while it trains."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.sparsity.masks import Masks

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.001),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9),
    "single": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=False),
}

shapes = st.lists(st.integers(0, 7), max_size=4).map(tuple)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5))


def half_of(model: nn.Module, seed: int = 0) -> Masks:
    """Masks that cut about half of every matrix and kernel."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    return Masks({name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in weights.items()})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, check: Callable[[], None]) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images = torch.randn(8, 2, 6, 6, generator=generator)
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()
        check()


def is_zero(model: nn.Module, masks: Masks) -> bool:
    """Whether every cut weight is zero, bit for bit: no negative zeros."""
    parameters = dict(model.named_parameters())
    cut = [parameters[name].detach()[~mask] for name, mask in masks.items()]
    return all(bool((values == 0).all()) and not bool(values.signbit().any()) for values in cut)


# --- a value -----------------------------------------------------------------------------------------------


def test_numbers() -> None:
    masks = Masks({"a": torch.tensor([[True, False], [False, False]]), "b": torch.ones(4, dtype=torch.bool)})
    assert (masks.total, masks.pruned, masks.sparsity) == (8, 3, 3 / 8)
    assert repr(masks) == "Masks(2 tensors, 3 of 8 cut, sparsity 0.3750)"
    assert list(masks) == ["a", "b"]


@pytest.mark.parametrize("masks", [{}, {"a": torch.ones(0, 3, dtype=torch.bool)}], ids=["none", "empty"])
def test_nothing_covered_is_no_sparsity(masks: dict[str, Tensor]) -> None:
    assert (Masks(masks).total, Masks(masks).sparsity) == (0, 0.0)


@pytest.mark.parametrize(
    "mask", [torch.ones(3), torch.ones(3, dtype=torch.uint8), [True], None, torch.ones(3).numpy() > 0]
)
def test_only_boolean_tensors_are_masks(mask: object) -> None:
    with pytest.raises(
        InputError, match=r"^The mask of w is .*: masks are boolean tensors, True keeps a weight\.$"
    ):
        Masks({"w": mask})  # type: ignore[dict-item]


def test_masks_do_not_change_with_what_they_were_made_of() -> None:
    source = {"a": torch.ones(2, dtype=torch.bool)}
    masks = Masks(source)
    source["b"] = torch.ones(2, dtype=torch.bool)
    assert list(masks) == ["a"]


@given(shape=shapes, seed=st.integers(0, 99))
@settings(deadline=None)
def test_and_keeps_what_both_keep(shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, other, lone = (torch.rand(shape, generator=generator) < 0.5 for _ in range(3))
    both = Masks({"w": one, "mine": lone}) & {"yours": lone, "w": other}
    assert list(both) == ["w", "mine", "yours"]
    assert both["w"].flatten().tolist() == [
        a and b for a, b in zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)
    ]
    assert torch.equal(both["mine"], lone)
    assert torch.equal(both["yours"], lone)


def test_and_refuses_masks_of_other_shapes() -> None:
    with pytest.raises(
        InputError, match="Two masks of w differ in shape, 2×1 and 2×3"
    ):  # these would broadcast
        Masks({"w": torch.ones(2, 1, dtype=torch.bool)}) & {"w": torch.ones(2, 3, dtype=torch.bool)}


def test_of_pairs_parameters_in_their_own_layout() -> None:
    model = net().to(memory_format=torch.channels_last)
    for parameter, mask in half_of(model).of(model):
        assert mask.stride() == parameter.stride()
    (_, mask), *_ = half_of(model).of(model)
    assert torch.equal(mask, half_of(model)["0.weight"])


def test_of_refuses_foreign_masks() -> None:
    with pytest.raises(
        InputError, match=r"There is a mask for 9\.weight, a parameter this model does not have"
    ):
        Masks({"9.weight": torch.ones(3, dtype=torch.bool)}).of(net())
    with pytest.raises(
        InputError, match=r"mask of 3\.weight is 48×5, the parameter is 5×48: .* another model"
    ):
        Masks({"3.weight": torch.ones(48, 5, dtype=torch.bool)}).of(net())


def test_of_refuses_before_anything_is_zeroed() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    masks = Masks(
        {"3.weight": torch.zeros(5, 48, dtype=torch.bool), "4.weight": torch.zeros(1, dtype=torch.bool)}
    )
    for attempt in (
        lambda: masks.apply_(model),
        lambda: masks.hold(model, OPTIMIZERS["sgd"](model.parameters())),
    ):
        with pytest.raises(InputError):
            attempt()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_apply_zeroes_whatever_was_there(dtype: torch.dtype) -> None:
    layer = nn.Linear(5, 1, bias=False).to(dtype)
    values = [math.nan, math.inf, -math.inf, -2.0, 3.0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([values]))
    masks = Masks({"weight": torch.tensor([[False, False, False, False, True]])})
    masks.apply_(layer)
    assert layer.weight.tolist() == [[0, 0, 0, 0, 3]]
    assert is_zero(layer, masks)


def test_tied_parameters_answer_to_each_name() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    Masks({"b.weight": torch.tensor([[True, False], [True, True]])}).apply_(model)
    assert model["a"].weight[0, 1] == 0


def test_of_zeros_reads_a_sparse_model() -> None:
    model = net()
    masks = half_of(model)
    masks.apply_(model)
    found = Masks.of_zeros(model)
    assert set(found) == set(masks)
    assert all(torch.equal(found[name], masks[name]) for name in masks)
    assert not Masks.of_zeros(net())  # the zeros of its biases are no cuts


# --- one bit a weight --------------------------------------------------------------------------------------


@given(masks=st.dictionaries(st.text(max_size=3), shapes, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_packing_takes_one_bit_a_weight_and_loses_nothing(
    masks: dict[str, tuple[int, ...]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    value = Masks({name: torch.rand(shape, generator=generator) < 0.5 for name, shape in masks.items()})
    packed = value.pack()
    for name, mask in value.items():
        assert packed[name].dtype == torch.uint8
        assert packed[name].numel() == math.ceil(mask.numel() / 8)
    back = Masks.unpack(packed, masks)
    assert list(back) == list(value)
    assert all(torch.equal(back[name], mask) for name, mask in value.items())


def test_packing_does_not_depend_on_memory_layout() -> None:
    mask = torch.rand(3, 5, 4, 7) < 0.5
    for layout in (mask.to(memory_format=torch.channels_last), mask.mT.contiguous().mT):
        assert torch.equal(Masks({"w": layout}).pack()["w"], Masks({"w": mask}).pack()["w"])


@pytest.mark.parametrize(
    ("packed", "shapes"),
    [
        ({"w": torch.zeros(1, dtype=torch.uint8)}, {"w": (9,)}),  # too few bits, which would read as cut
        ({"w": torch.zeros(2, dtype=torch.uint8)}, {"w": (8,)}),
        ({"w": torch.zeros(1, 1, dtype=torch.uint8)}, {"w": (8,)}),
        ({"w": torch.zeros(1)}, {"w": (8,)}),
        ({"w": torch.zeros(1, dtype=torch.uint8)}, {"w": (-2, -4)}),
        ({"w": torch.zeros(1, dtype=torch.uint8)}, {}),
        ({}, {"w": (8,)}),
        ({"v": torch.zeros(1, dtype=torch.uint8)}, {"w": (8,)}),
        ({"w": torch.zeros(1, dtype=torch.uint8)}, {"w": (10**12, 10**12)}),
    ],
)
def test_bits_that_do_not_fit_their_shape_are_refused(
    packed: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
) -> None:
    with pytest.raises(InputError, match="packed mask"):
        Masks.unpack(packed, shapes)


# --- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)
def test_held_weights_stay_zero_through_training(optimizer: str, layout: torch.memory_format) -> None:
    model = net().to(memory_format=layout)
    masks = half_of(model)
    before = copy.deepcopy(model)
    stepper = OPTIMIZERS[optimizer](model.parameters())
    with masks.hold(model, stepper):
        assert is_zero(model, masks)
        train(model, stepper, 6, lambda: _assert(is_zero(model, masks)))
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        assert not torch.isclose(parameters[name][mask], dict(before.named_parameters())[name][mask]).all()
    for name, mask in masks.items():
        for state in stepper.state[parameters[name]].values():
            if isinstance(state, Tensor) and state.shape == mask.shape:
                assert (state[~mask] == 0).all()


def _assert(condition: bool) -> None:
    assert condition


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_a_hold_they_would_not(optimizer: str) -> None:
    model = net()
    masks = half_of(model)
    masks.apply_(model)
    train(model, OPTIMIZERS[optimizer](model.parameters()), 2, lambda: None)
    assert not is_zero(model, masks)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_held_training_is_training_of_the_kept_weights_alone(optimizer: str) -> None:
    """The kept weights take the very steps they take when the masks are multiplied in by the forward pass."""
    held, reference = net().double(), net().double()
    masks = half_of(held)
    stepper = OPTIMIZERS[optimizer](held.parameters())
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(8, 2, 6, 6, generator=generator, dtype=torch.float64) for _ in range(5)]
    with masks.hold(held, stepper):
        for batch in batches:
            stepper.zero_grad()
            held(batch).square().sum().backward()
            stepper.step()
    other = OPTIMIZERS[optimizer](reference.parameters())
    for batch in batches:
        other.zero_grad()
        masked = {name: p * masks[name] if name in masks else p for name, p in reference.named_parameters()}
        torch.func.functional_call(reference, masked, batch).square().sum().backward()
        other.step()
    for name, parameter in reference.named_parameters():
        expected = parameter * masks[name] if name in masks else parameter
        torch.testing.assert_close(held.get_parameter(name), expected, rtol=1e-9, atol=1e-12)


def test_masks_join_late_and_still_hold() -> None:
    model = net()
    masks = half_of(model)
    stepper = OPTIMIZERS["momentum"](model.parameters())
    train(model, stepper, 3, lambda: None)  # momentum of weights that will be cut
    parameters = dict(model.named_parameters())
    with masks.hold(model, stepper):
        train(
            model, stepper, 3, lambda: _assert(all((parameters[n][~m] == 0).all() for n, m in masks.items()))
        )


def test_letting_go() -> None:
    model = net()
    masks = half_of(model)
    stepper = OPTIMIZERS["momentum"](model.parameters())
    held = masks.hold(model, stepper)
    train(model, stepper, 1, lambda: None)
    held.remove()
    assert is_zero(model, masks)
    train(model, stepper, 1, lambda: None)
    assert not is_zero(model, masks)
    held.remove()  # twice is once


def test_clipping_sees_the_kept_gradients_after_zero_gradients() -> None:
    model = net()
    masks = half_of(model)
    stepper = OPTIMIZERS["sgd"](model.parameters())
    with masks.hold(model, stepper) as held:
        model(torch.randn(8, 2, 6, 6)).square().sum().backward()
        expected = math.sqrt(
            sum(
                float((p.grad * masks[name] if name in masks else p.grad).double().square().sum())
                for name, p in model.named_parameters()
            )
        )
        raw = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]))
        held.zero_gradients()
        clipped = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    assert clipped == pytest.approx(expected, rel=1e-5)
    assert raw > 1.01 * expected


def test_parameters_without_gradients_are_no_trouble() -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    masks = half_of(model)
    stepper = OPTIMIZERS["adamw"]([p for p in model.parameters() if p.requires_grad])
    with masks.hold(model, stepper) as held:
        held.zero_gradients()  # none there yet
        train(model, stepper, 2, lambda: _assert(is_zero(model, masks)))
    with Masks({}).hold(model, stepper) as nothing:
        nothing.zero_gradients()
        train(model, stepper, 1, lambda: None)


def test_two_masks_on_one_model_hold_both() -> None:
    model = net()
    one, other = half_of(model, seed=1), half_of(model, seed=2)
    stepper = OPTIMIZERS["momentum"](model.parameters())
    with one.hold(model, stepper), other.hold(model, stepper):
        train(model, stepper, 3, lambda: _assert(is_zero(model, one & other)))


def test_masks_move_between_devices() -> None:
    masks = half_of(net()).to("meta")
    assert all(mask.is_meta for mask in masks.values())
