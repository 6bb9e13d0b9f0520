"""What every method that prunes while training must do, whichever it is."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import STEPS, advance, batch, begin, fresh, optimizer_of, same, whole
from torch.nn import functional

import secateur
from secateur import METHODS, InputError, Masks
from secateur.methods import start
from secateur.storage.model_files import read_tree, write_tree

ALL = pytest.mark.parametrize("name", METHODS)
CUTS = pytest.mark.parametrize(
    "name", [name for name, entry in METHODS.items() if entry.make.amount == "required"]
)


@ALL
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_model_is_its_own_again_and_what_is_cut_is_zero(name: str, kind: str) -> None:
    model = fresh()
    optimizer = optimizer_of(model, kind)
    names, objects = list(model.state_dict()), list(model.parameters())
    types, trainable = [type(m) for m in model.modules()], [p.requires_grad for p in objects]
    groups = [list(group["params"]) for group in optimizer.param_groups]
    method = begin(name, model, optimizer)
    advance(model, optimizer, method)
    masks = method.finish()
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), objects, strict=True))
    assert [type(m) for m in model.modules()] == types
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert all(
        a is b
        for one, two in zip((g["params"] for g in optimizer.param_groups), groups, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    assert set(map(id, optimizer.state)) <= set(map(id, objects))
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
    for parameter, mask in masks.of(model):
        assert not parameter[~mask].any()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@CUTS
@pytest.mark.parametrize("amount", [0.0, 0.37, 0.9])
def test_exactly_the_amount_is_cut(name: str, amount: float) -> None:
    """Of all weights; of methods that cut units or rows, of those."""
    _, masks = whole(name, amount=amount)
    entry = METHODS[name].make
    if entry.counts == "weights" and METHODS[name].options.get("scope") != "row":
        sizes = [mask.numel() for mask in masks.values()]
        allowed = 0 if METHODS[name].options.get("scope") in ("global", "erk") else len(sizes)
        assert abs(masks.pruned - round(amount * sum(sizes))) <= allowed


@ALL
def test_state_through_a_file_continues_with_the_same_bits(name: str, tmp_path: Path) -> None:
    expected, masks = whole(name)
    for stop in (1, 5, STEPS):
        model = fresh()
        optimizer = optimizer_of(model)
        method = begin(name, model, optimizer)
        advance(model, optimizer, method, 0, stop)
        parts = {"model": model, "optimizer": optimizer, "method": method}
        write_tree(tmp_path / "state", {key: part.state_dict() for key, part in parts.items()})
        model = fresh(seed=1)
        optimizer = optimizer_of(model)
        method = begin(name, model, optimizer)
        tree = read_tree(tmp_path / "state")
        for key, part in {"model": model, "optimizer": optimizer, "method": method}.items():
            part.load_state_dict(tree[key])
        advance(model, optimizer, method, stop)
        again = method.finish()
        assert same(model, expected)
        assert {n: m.tolist() for n, m in again.items()} == {n: m.tolist() for n, m in masks.items()}


@ALL
def test_the_same_seed_gives_the_same_bits_whatever_else_is_drawn(name: str) -> None:
    first, masks = whole(name)
    torch.rand(7)
    second, again = whole(name)
    assert same(first, second)
    assert all(torch.equal(masks[key], again[key]) for key in masks)


@ALL
def test_evaluation_is_deterministic(name: str) -> None:
    model = fresh()
    optimizer = optimizer_of(model)
    method = begin(name, model, optimizer)
    advance(model, optimizer, method, last=4)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(batch(0)[0]), model(batch(0)[0]))


@ALL
def test_a_block_ends_with_the_cut_and_an_error_only_lets_go(name: str) -> None:
    model = fresh()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), begin(name, model, optimizer_of(model)):
        raise KeyError
    if name not in ("set", "rigl"):  # sparse from the start
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model = fresh()
    optimizer = optimizer_of(model)
    with begin(name, model, optimizer) as method:
        advance(model, optimizer, method)
    assert same(model, whole(name)[0])
    with pytest.raises(InputError, match="has ended already"):
        method.finish()


@ALL
def test_penalties_are_scalars_that_fit_the_loss(name: str) -> None:
    model = fresh(dtype=torch.float64)
    method = begin(name, model, optimizer_of(model))
    penalty = method.penalty().detach()
    assert penalty.shape == ()
    assert float(penalty) >= 0


@ALL
def test_what_is_kept_or_cut_already_stays_so(name: str) -> None:
    earlier = Masks({"head.weight": torch.arange(32).reshape(4, 8) % 2 > 0})
    _, masks = whole(name, masks=earlier, keep="stem")
    assert "stem.weight" not in masks or METHODS[name].make.counts == "units"
    if "head.weight" in masks and METHODS[name].make.counts == "weights":
        assert not masks["head.weight"][~earlier["head.weight"]].any()


@ALL
def test_options_are_documented_and_unknown_ones_refused(name: str) -> None:
    entry = METHODS[name]
    text = inspect.getdoc(entry.make) or ""
    assert entry.summary.endswith(".")
    assert entry.paper
    for option in entry.options:
        assert any(option in (inspect.getdoc(base) or "") for base in entry.make.__mro__), (option, text)
    with pytest.raises(InputError, match=f"The method {name} has no option 'colour': its options are"):
        begin(name, fresh(), optimizer_of(fresh()), colour=1)


@CUTS
def test_an_amount_is_asked_for(name: str) -> None:
    model = fresh()
    of = METHODS[name].make.counts
    with pytest.raises(InputError, match=f"needs an amount: amount=0.9 cuts 90 % of the prunable {of}"):
        start(name, model, optimizer_of(model), steps=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "magic"}, "no method named 'magic'"),
        ({"steps": 1.5}, "The steps are 1.5"),
        ({"steps": -1}, "The steps are -1"),
        ({"amount": 1.5}, "not a number between 0 and 1"),
        ({"optimizer": None}, "pass a torch.optim.Optimizer"),
        ({"every": 0}, "every is 0"),
        ({"begin": 0.8, "end": 0.2}, "from 0.8 to 0.2"),
        ({"scope": "nowhere"}, "no scope named 'nowhere'"),
        ({"keep": "nothing"}, "No layer with parameters matches"),
        ({"masks": {"x": torch.ones(2, dtype=torch.bool)}}, "does not have"),
    ],
)
def test_nonsense_is_refused_in_one_sentence_and_leaves_nothing(change: dict[str, Any], said: str) -> None:
    model = fresh()
    optimizer = optimizer_of(model)
    arguments = {
        "name": "gradual",
        "model": model,
        "optimizer": optimizer,
        "steps": 3,
        "amount": 0.5,
        **change,
    }
    with pytest.raises(InputError, match=said) as caught:
        start(**arguments)
    assert "\n" not in str(caught.value)
    assert not optimizer._optimizer_step_pre_hooks


@ALL
def test_a_scaled_loss_changes_nothing(name: str) -> None:
    """Hooks see gradients as they are, whatever power of two the loss was multiplied by in mixed precision."""
    expected, masks = whole(name)
    model = fresh()
    optimizer = optimizer_of(model)
    method = begin(name, model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model.train()
    for step in range(STEPS):
        inputs, labels = batch(step)
        optimizer.zero_grad()
        scaler.scale(functional.cross_entropy(model(inputs), labels) + method.penalty()).backward()
        scaler.step(optimizer)
        scaler.update()
    again = method.finish()
    assert same(model, expected)
    assert all(torch.equal(masks[key], again[key]) for key in masks)


def test_a_state_of_another_method_is_refused() -> None:
    model, another = fresh(), fresh()
    method = begin("gradual", model, optimizer_of(model))
    other = begin("rigl", another, optimizer_of(another))
    with pytest.raises(InputError, match="The state is of the method rigl, not gradual"):
        method.load_state_dict(other.state_dict())


@ALL
def test_a_method_runs_once_on_the_same_weights(name: str) -> None:
    model = fresh()
    optimizer = optimizer_of(model)
    method = begin(name, model, optimizer)
    with pytest.raises(InputError, match=r"at work .*already: end it with its finish\(\)"):
        begin(name, model, optimizer)
    method.finish()
    begin(name, model, optimizer).finish()


@ALL
@pytest.mark.parametrize("second", METHODS)
def test_two_methods_go_together_or_are_refused_in_a_sentence(name: str, second: str) -> None:
    model = fresh()
    optimizer = optimizer_of(model)
    with begin(name, model, optimizer, layers="blocks.0") as method:
        begin(second, model, optimizer, layers="blocks.1").remove()  # other weights
        adds = "none" in {METHODS[name].make.amount, METHODS[second].make.amount}  # and cuts nothing
        units = "units" in {METHODS[name].make.counts, METHODS[second].make.counts}
        if name == second or not (adds or (units and not METHODS[name].make.reshapes)):
            with pytest.raises(InputError, match=r"at work .*already: end it with its finish\(\)"):
                begin(second, model, optimizer)
        else:
            both = begin(second, model, optimizer)
            advance(model, optimizer, method, 0, 2)
            both.finish()


@pytest.mark.parametrize("name", [name for name, entry in METHODS.items() if entry.make.reshapes])
def test_weights_behind_gates_are_told_without_their_method(name: str) -> None:
    model = fresh()
    begin(name, model, optimizer_of(model))
    again = copy.deepcopy(model)
    with pytest.raises(InputError, match=r"computes stem\.weight from other tensors"):
        begin("gradual", again, optimizer_of(again), layers="stem.weight")


def test_the_registry_is_public() -> None:
    assert secateur.METHODS is METHODS
    assert secateur.methods.start is start
