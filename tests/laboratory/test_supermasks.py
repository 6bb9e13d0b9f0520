"""Masks as questions: against sorting by hand in float64; the command, what it keeps and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import snapshot
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from secateur.core.errors import InputError
from secateur.lottery import KEPT, MASK_CRITERIA, MASKED, ask, mask_criteria
from secateur.runs.run import Run
from secateur.steps import Prune, Supermask, Train
from secateur.steps import supermask as command
from secateur.training import evaluate, read_snapshot

State = dict[str, Tensor]
SIZES = {"first.weight": (8, 5), "second.weight": (4, 2, 3, 3), "last.weight": (3, 4)}
RATES = {"output": 0.5}


def state_of(seed: int) -> State:
    """Three layers and a bias, with a zero and two equal sizes in each layer."""
    stream = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=stream) for name, shape in SIZES.items()}
    for tensor in state.values():
        tensor.view(-1)[0] = 0.0
        tensor.view(-1)[1] = -tensor.view(-1)[2]
    return {**state, "first.bias": torch.randn(8, generator=stream)}


INITIAL, FRESH = state_of(0), state_of(1)
FINAL = {name: tensor + 0.8 * state_of(2)[name] for name, tensor in INITIAL.items()}
CONTEXT: dict[str, Any] = {"fresh": FRESH, "layer_rates": RATES}


def score(name: str, before: float, after: float, alpha: float) -> float:
    """The definitions of Zhou et al. 2019, weight by weight, in Python's floats, which are float64."""
    old, new = abs(before), abs(after)
    return {
        "large_final": new,
        "small_final": -new,
        "large_init": old,
        "small_init": -old,
        "large_init_large_final": min(old, alpha * new),
        "small_init_small_final": -max(old, alpha * new),
        "magnitude_increase": new - old,
        "movement": abs(after - before),
    }[name]


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def by_hand(name: str, layer: str, amount: float) -> list[bool]:
    """Which weights stay, by sorting pairs of score and position."""
    before, after = INITIAL[layer].flatten().tolist(), FINAL[layer].flatten().tolist()
    alpha = sum(map(abs, before)) / sum(map(abs, after))
    scores = [
        score(name.removesuffix("_same_sign"), *pair, alpha) for pair in zip(before, after, strict=True)
    ]
    count = len(before) - round((0.5 if layer == "last.weight" else 1.0) * amount * len(before))
    able = [
        at
        for at in range(len(before))
        if not name.endswith("_same_sign") or sign(before[at]) == sign(after[at])
    ]
    chosen = sorted(able, key=lambda at: (scores[at], at), reverse=True)[:count]
    return [at in chosen for at in range(len(before))]


DEFINED = [name for name in MASK_CRITERIA if not name.startswith("random")]


@pytest.mark.parametrize("amount", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("name", DEFINED)
def test_the_weights_that_stay_are_those_of_the_definition(name, amount):
    masks = ask(INITIAL, FINAL, amount, criterion=name, layer_rates=RATES)[1]
    assert {layer: masks[layer].flatten().tolist() for layer in masks} == {
        layer: by_hand(name, layer, amount) for layer in SIZES
    }


@pytest.mark.parametrize("name", [name for name in MASK_CRITERIA if not name.endswith("_same_sign")])
def test_every_criterion_has_its_variant_of_the_same_sign(name):
    variant = MASK_CRITERIA[f"{name}_same_sign"]
    assert variant.same_sign
    assert variant.function is MASK_CRITERIA[name].function


@given(amount=st.floats(0, 1), rate=st.floats(0, 1), name=st.sampled_from(list(MASK_CRITERIA)))
def test_exactly_as_many_stay_as_are_asked_for(amount, rate, name):
    masks = ask(INITIAL, FINAL, amount, criterion=name, layer_rates={"output": rate})[1]
    for layer, mask in masks.items():
        size, share = mask.numel(), (rate if layer == "last.weight" else 1.0) * amount
        same = INITIAL[layer].sign() == FINAL[layer].sign()
        able = int(same.sum()) if name.endswith("_same_sign") else size
        assert int(mask.sum()) == min(able, size - round(share * size))
        if name.endswith("_same_sign"):
            assert not bool((mask & ~same).any())


def treated(kept: str, layer: str) -> Tensor | None:
    """What a kept weight becomes; None where it is drawn."""
    before, new = INITIAL[layer], FRESH[layer]
    mean = before.double().mean()
    deviation = ((before.double() - mean) ** 2).mean().sqrt()
    known = {
        "rewind": before,
        "reinit": new,
        "reinit_signed": torch.where(before < 0, -new.abs(), new.abs()),
        "constant": (before.sign() * deviation).float(),
    }
    return known.get(kept)


@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("name", MASK_CRITERIA)
def test_weights_become_what_was_asked(name, kept, masked):
    state, masks = ask(INITIAL, FINAL, 0.4, criterion=name, kept=kept, masked=masked, seed=3, **CONTEXT)
    assert list(state) == list(INITIAL)
    assert torch.equal(state["first.bias"], INITIAL["first.bias"])
    for layer, mask in masks.items():
        found, before = state[layer], INITIAL[layer]
        assert (found.dtype, found.shape) == (before.dtype, before.shape)
        others = before if masked == "frozen" else torch.zeros(before.shape)
        assert torch.equal(found[~mask], others[~mask])
        wanted = treated(kept, layer)
        if wanted is not None:
            torch.testing.assert_close(found[mask], wanted[mask])
        else:
            sizes = found[mask].abs().sort().values
            assert torch.equal(sizes, before[mask].abs().sort().values)
            if kept == "reshuffle":
                assert torch.equal(found[mask].sort().values, before[mask].sort().values)
            else:
                assert not bool((found[mask] * before[mask] < 0).any())


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("name", MASK_CRITERIA)
def test_a_seed_gives_the_same_bits_and_another_one_others(name, kept):
    def asked(seed: int) -> tuple[State, Any]:
        torch.rand(seed + 1)  # other draws before it change nothing
        return ask(INITIAL, FINAL, 0.5, criterion=name, kept=kept, seed=seed, **CONTEXT)

    (one, masks), (two, again), (other, others) = asked(0), asked(0), asked(1)
    assert all(torch.equal(one[layer], two[layer]) for layer in one)
    assert all(torch.equal(masks[layer], again[layer]) for layer in masks)
    drawn = name.startswith("random") or kept.startswith("reshuffle")
    assert drawn == any(not torch.equal(one[layer], other[layer]) for layer in SIZES)
    if name.startswith("random"):
        assert any(not torch.equal(masks[layer], others[layer]) for layer in masks)


def test_a_layer_that_was_trained_to_zero_is_ranked_all_the_same():
    zeros = {name: torch.zeros_like(tensor) for name, tensor in FINAL.items()}
    masks = ask(INITIAL, zeros, 0.5, criterion="large_init_large_final", names=["last.weight"])[1]
    assert masks["last.weight"].flatten().tolist() == [False] * 6 + [True] * 6  # equal scores: the later ones
    small = ask(INITIAL, zeros, 0.5, criterion="small_init_small_final", names=["last.weight"])[1]
    sizes = INITIAL["last.weight"].abs()
    assert float(sizes[small["last.weight"]].max()) <= float(sizes[~small["last.weight"]].min())


def test_what_is_given_stays_as_it_was():
    before = {name: tensor.clone() for name, tensor in {**INITIAL, "f": FINAL["first.weight"]}.items()}
    for kept in KEPT:
        ask(INITIAL, FINAL, 0.5, kept=kept, **CONTEXT)
    now = {**INITIAL, "f": FINAL["first.weight"]}
    assert all(torch.equal(before[name], now[name]) for name in now)


def test_a_criterion_and_a_treatment_of_ones_own(monkeypatch):
    monkeypatch.setattr(MASK_CRITERIA, "_items", dict(MASK_CRITERIA))
    monkeypatch.setattr(KEPT, "_items", dict(KEPT))
    mask_criteria.criterion("early")(lambda initial: -torch.arange(initial.numel()).reshape(initial.shape))
    mask_criteria.treatment(KEPT, "one")(lambda initial: torch.ones_like(initial))
    state, _ = ask(INITIAL, FINAL, 0.75, criterion="early", kept="one", names=["last.weight"])
    assert state["last.weight"].flatten().tolist() == [1.0] * 3 + [0.0] * 9
    assert "early_same_sign" in MASK_CRITERIA


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"criterion": "large_finale"}, "did you mean large_final"),
        ({"kept": "rewound"}, "treatment of kept weights named 'rewound'"),
        ({"masked": "one"}, "treatment of masked weights named 'one'"),
        ({"amount": 1.5}, "from 0 to 1"),
        ({"amount": True}, "from 0 to 1"),
        ({"amount": 0.6, "layer_rates": {"output": 2}}, "more than all of last.weight"),
        ({"layer_rates": {"nowhere": 0.5}}, "No layer that may be cut is 'nowhere'"),
        ({"kept": "reinit"}, "pass fresh="),
        ({"names": ["none.weight"]}, "no tensor none.weight"),
        ({"names": []}, "nothing to mask"),
        ({"final": {**FINAL, "last.weight": torch.ones(2, 2)}}, "last.weight is not the same tensor"),
        ({"final": {}}, "different models"),
        ({"initial": {**INITIAL, "last.weight": INITIAL["last.weight"] / 0}}, "last.weight holds NaN"),
    ],
)
def test_what_makes_no_sense_is_refused(change, told):
    arguments: dict[str, Any] = {"initial": INITIAL, "final": FINAL, "amount": 0.5, **change}
    with pytest.raises(InputError, match=told):
        ask(**arguments)


# The command

TRAINING: dict[str, Any] = {
    "model": "lenet300",
    "data": "digits",
    "train_subset": 200,
    "epochs": 2,
    "lr": 0.1,
}
ASKED: dict[str, Any] = {
    "criteria": ("large_final_same_sign", "random"), "kept": ("rewind", "reinit"), "amounts": (0.5, 0.8),
    "layer_rates": RATES, "test_samples": 60, "out": "asked",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training that kept its first weights, and one that did not; tests must not change it."""
    root = tmp_path_factory.mktemp("runs")
    Train(out="dense", snapshots=("0it",), **TRAINING)(root)
    Train(out="forgetful", **TRAINING)(root)
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "root"))


def test_cells_are_the_accuracies_of_networks_never_trained(trained, root):
    records = Supermask(run="dense", **ASKED)(root).record
    assert len(records) == 2 * 2 * 2
    run, data = Run.open(trained / "dense"), secateur.load_data("digits").subset(test=60, seed=0)
    model, _ = run.load_model()
    final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initial = read_snapshot(trained / "dense", 0)
    for record in (record for record in records if record["kept"] == "rewind"):
        state, masks = ask(initial, final, record["amount"], criterion=record["criterion"], layer_rates=RATES)
        model.load_state_dict(state)
        found = evaluate(model, data, progress=False)
        assert {name: record[name] for name in found} == pytest.approx(found)
        assert record["weights_left"] == masks.total - masks.pruned
    assert json.loads((root / "asked/supermask.json").read_text()) == records


def test_a_command_that_was_stopped_goes_on(root, monkeypatch):
    asked, calls = Supermask(run="dense", **ASKED), []

    def fused(*arguments: Any, **more: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*arguments, **more)

    monkeypatch.setattr(command, "evaluate", fused)
    with pytest.raises(KeyboardInterrupt):
        asked(root)
    assert len(json.loads((root / "asked/supermask.json").read_text())) == 3
    records = asked(root).record
    assert len(calls) == 4 + 5
    before = snapshot(root)
    assert asked(root).record == records
    assert len(calls) == 4 + 5
    assert snapshot(root) == before
    monkeypatch.undo()
    own = ("criterion", "kept", "amount", "top1", "loss")
    whole = Supermask(run="dense", **{**ASKED, "out": "whole"})(root).record
    assert [[cell[name] for name in own] for cell in whole] == [
        [cell[name] for name in own] for cell in records
    ]
    Supermask(run="dense", **{**ASKED, "seed": 1})(root)
    assert len(json.loads((root / "asked/supermask.json").read_text())) == 16
    Supermask(run="dense", overwrite=True, **ASKED)(root)
    assert len(json.loads((root / "asked/supermask.json").read_text())) == 16


def test_tied_weights_are_masked_in_both_places(tmp_path, monkeypatch):
    (tmp_path / "tied_net.py").write_text(TIED)
    monkeypatch.syspath_prepend(tmp_path)
    training = {**TRAINING, "model": "tied_net:Tied", "snapshots": ("0it",)}
    Train(out="tied", **training)(tmp_path, trust=True)
    seen: list[nn.Module] = []

    def looked(model: nn.Module, *_: Any, **__: Any) -> dict[str, float]:
        seen.append(model)
        assert int(model.get_parameter("one.weight").count_nonzero()) == 0
        return {"top1": 0.0, "top5": 0.0, "loss": 0.0}

    monkeypatch.setattr(command, "evaluate", looked)
    Supermask(run="tied", criteria=("random",), kept=("rewind",), amounts=(1.0,))(tmp_path, trust=True)
    assert seen


TIED = """
import torch


class Tied(torch.nn.Module):
    def __init__(self, num_classes=10, input_shape=(1, 8, 8)):
        super().__init__()
        self.one, self.two = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
        self.two.weight = self.one.weight
        self.head = torch.nn.Linear(64, num_classes)

    def forward(self, inputs):
        return self.head(self.two(self.one(inputs.flatten(1)).relu()).relu())
"""


@pytest.mark.parametrize("form", ["text", "json", "csv", "markdown", "latex"])
def test_the_table_comes_in_every_format(form, root, secateur_command):
    words = ("--criteria", "large_final", "--kept", "rewind", "--amounts", "0.5,0.8", "--format", form)
    ran = secateur_command("supermask", str(root / "dense"), *words)
    assert ran.code == 0
    if form == "json":
        assert [cell["amount"] for cell in json.loads(ran.out)] == [0.5, 0.8]
    else:
        assert "large" in ran.out


def test_a_run_without_its_first_weights_is_refused_in_a_sentence(root, secateur_command):
    ran = secateur_command("supermask", str(root / "forgetful"))
    assert ran.code == 2
    assert ran.err.count(".") == 1
    assert "train it with --snapshots 0it." in " ".join(ran.err.split())


@pytest.mark.parametrize(
    "words",
    [
        ("dense", "--criteria", "large_finale"),
        ("dense", "--kept", "rewound"),
        ("dense", "--masked", "one"),
        ("dense", "--amounts", "1.5"),
        ("dense", "--layer-rate", "nowhere=1"),
        ("dense", "--layer-rate", "output=3"),
        ("dense", "--layers", "nowhere"),
        ("dense", "--device", "abacus"),
        ("nowhere",),
    ],
)
def test_bad_input_is_a_sentence(words, root, secateur_command):
    ran = secateur_command("supermask", str(root / words[0]), *words[1:])
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert ran.err.strip()[-1] in ".?"
    assert len(ran.err.strip().splitlines()) == 1
    assert ran.out == ""


def test_a_run_that_has_gone_on_is_refused(root):
    Prune(run="dense", out="cut", amount=0.5)(root)
    with pytest.raises(InputError, match="has gone on to"):
        Supermask(run="cut")(root)


def test_results_of_something_else_are_left_alone(root):
    (root / "asked").mkdir()
    (root / "asked/supermask.json").write_text("[1]")
    with pytest.raises(secateur.core.errors.StoreError, match="results of secateur supermask"):
        Supermask(run="dense", **ASKED)(root)
