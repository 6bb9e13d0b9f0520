"""Lottery tickets: how far a search goes, what each level cuts, and what each start does, against a loop by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toy_training import BATCH, COUNT, Net, copied, fresh, same, toy

import secateur
from secateur import lottery
from secateur.core.errors import InputError
from secateur.lottery import STARTS, Course, cut, early_stop, find, multiples, order, pace
from secateur.lottery.retraining import TRAININGS
from secateur.lottery.starts import shuffled
from secateur.measure import cost
from secateur.sparsity.masks import Masks
from secateur.training import TrainConfig, read_snapshot, train
from secateur.training.learning_rate import learning_rate

PER_EPOCH, EPOCHS = -(-COUNT // BATCH), 3
PLAIN: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.1, "evaluate_every": "2it"}
LEADING = [name for name, start in STARTS.items() if start.leads]
OTHERS = [name for name in STARTS if name not in LEADING]
SIZES = {"conv.weight": 36, "hidden.weight": 768, "head.weight": 48}


def newly() -> Net:
    return Net(0.2)


def net() -> Net:
    return fresh(0.2)


def counts(masks: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


# How far a search goes


@given(st.floats(0.01, 0.9), st.integers(1, 40))
def test_so_many_levels_leave_a_power_of_what_one_leaves(rate, levels):
    p, steps = pace({1.0: 1000}, rate=rate, levels=levels)
    assert (p, steps) == (rate, [float(level) for level in range(1, levels + 1)])
    assert math.isclose(
        lottery.pace({1.0: 7}, levels=levels, left=(1 - rate) ** levels)[0], rate, rel_tol=1e-6
    )


@given(
    st.dictionaries(st.floats(0.5, 1.0), st.integers(1, 10**6), min_size=1, max_size=4),
    st.floats(0.05, 0.9),
    st.floats(0.005, 0.95),
)
def test_until_a_fraction_is_left_the_last_level_takes_what_is_missing(sizes, rate, left):
    p, steps = pace(sizes, rate=rate, left=left)
    total = sum(sizes.values())

    def share(level: float) -> float:
        return sum(size * (1 - multiple * p) ** level for multiple, size in sizes.items()) / total

    assert math.isclose(share(steps[-1]), left, rel_tol=1e-4)
    assert steps[:-1] == [float(level) for level in range(1, len(steps))]
    assert all(share(level) > left for level in steps[:-1])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "Say how far to go"),
        ({"rate": 0.2, "levels": 3, "left": 0.1}, "leave one out"),
        ({"levels": 0}, "can't be 0 levels"),
        ({"rate": 1.0, "levels": 3}, "The rate is 1.0"),
        ({"left": 0.0}, "The left is 0.0"),
        ({"rate": 0.6, "levels": 2}, "takes all of a layer at once"),
        ({"left": 0.05}, "are in layers with the rate 0"),
        ({"rate": 1e-7, "left": 0.5}, "more than 1024 levels"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(arguments, reason):
    with pytest.raises(InputError, match=reason):
        pace({2.0: 100, 1.0: 800, 0.0: 100}, **arguments)


def test_every_level_has_its_parent_before_it():
    jobs = list(order(["weights", "random", "lr"], 3))
    done = {None}
    for number, start, parent in jobs:
        assert parent in done
        assert parent is None or parent == ({"random": "weights"}.get(start, start), number - 1)
        done.add((start, number))
    assert len(jobs) == 9
    assert all(job.parent is None for job in order(["weights", "reinit"], 3, one_shot=True))


@pytest.mark.parametrize(
    ("starts", "reason"),
    [
        (["reinit"], "add one whose masks the others take, weights, lr, none"),
        (["weights", "reint"], "did you mean reinit"),
        (["weights", "weights"], "named twice"),
    ],
)
def test_starts_that_make_no_sense_are_refused(starts, reason):
    with pytest.raises(InputError, match=reason):
        list(order(starts, 1))


# What a level cuts


def test_rates_of_layers_by_kind_name_and_glob():
    targets = secateur.sparsity.targets.prunable(net())
    assert multiples(targets, {}) == dict.fromkeys(SIZES, 1.0)
    found = multiples(targets, {"conv": 0.5, "linear": 2, "output": 0.25, "hid*": 0})
    assert found == {"conv.weight": 0.5, "hidden.weight": 0.0, "head.weight": 0.25}
    for wrong in ({"nowhere": 0.5}, {"conv": -1}, {"conv": math.inf}, {"conv": True}, {"conv": "half"}):
        with pytest.raises(InputError):
            multiples(targets, wrong)


@pytest.mark.parametrize("level", [1.0, 2.0, 5.0, 9.3])
def test_exactly_as_many_weights_are_left_in_each_layer(level):
    masks = cut(net(), rate=0.2, level=level, layer_rates={"output": 0.5, "conv": 0}, scope="local")
    expected = {
        "conv.weight": 36,
        "hidden.weight": 768 - round((1 - 0.8**level) * 768),
        "head.weight": 48 - round((1 - 0.9**level) * 48),
    }
    assert counts(masks) == expected


def test_what_is_spared_counts_as_much_as_what_is_hardly_cut():
    """So that searches that spare other layers are compared by one count: of all weights that may be cut."""
    spared, hardly = (
        cut(net(), rate=0.5, level=2, layer_rates={"hidden": multiple}, scope="local")
        for multiple in (0.0, 1e-6)
    )
    assert counts(spared) == counts(hardly) == {"conv.weight": 9, "hidden.weight": 768, "head.weight": 12}
    assert (spared.total, hardly.total) == (852, 852)
    assert cut(net(), rate=0.5, level=2, keep=("hidden",), scope="local").total == 84
    again = cut(net(), spared, rate=0.5, level=3, layer_rates={"head": 0.0}, layers=("head", "conv"))
    assert counts(again) == {"head.weight": 12, "conv.weight": 4, "hidden.weight": 768}


def test_a_layer_that_a_pattern_does_not_fit_counts_as_left():
    masks = cut(net(), rate=0.2, level=1, granularity="2:4")
    assert counts(masks) == {"conv.weight": 36, "hidden.weight": 384, "head.weight": 24}


def test_layers_of_one_rate_are_ranked_together_and_the_smallest_of_what_is_left_go():
    model, masks = net(), Masks({})
    for level in (1, 2, 3):
        with torch.no_grad():  # as if a training had moved them
            for number, parameter in enumerate(model.parameters()):
                parameter.copy_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * level + number))
                )
        before = masks
        masks = cut(model, before, rate=0.3, level=level, layer_rates={"head": 0.5})
        for names, rate in ((["conv.weight", "hidden.weight"], 0.3), (["head.weight"], 0.15)):
            tensors = [dict(model.named_parameters())[name].detach().flatten() for name in names]
            alive = torch.cat([before.get(name, torch.ones(SIZES[name])).flatten().bool() for name in names])
            magnitudes = torch.cat(tensors).abs().double().masked_fill(~alive, -1.0)
            n = len(magnitudes)
            goes = magnitudes.argsort()[: round((1 - (1 - rate) ** level) * n)]
            expected = torch.ones(n, dtype=torch.bool)
            expected[goes] = False
            assert torch.equal(torch.cat([masks[name].flatten() for name in names]), expected)


def test_a_pattern_is_cut_at_once_and_units_are_refused():
    masks = cut(net(), rate=0.2, level=1, granularity="2:4", keep=("conv",))
    assert counts(masks) == {"hidden.weight": 384, "head.weight": 24}
    with pytest.raises(InputError, match=r"makes a smaller model: call lottery\.subnetwork"):
        cut(net(), rate=0.2, level=1, granularity="channel")
    with pytest.raises(InputError, match="leave layer_rates out"):
        cut(net(), rate=0.2, level=1, granularity="2:4", layer_rates={"conv": 0.5})


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (
            {"rate": 0.5, "level": 100},
            r"Level 100 at the rate 0.5 leaves fewer weights \(0\) than layers \(3\)",
        ),
        ({"rate": 0.999, "level": 1}, r"fewer weights \(1\) than layers \(3\): go less far, by fewer levels"),
        ({"rate": 0.2, "level": 1e9}, "more left, or a smaller rate"),
        ({"rate": 0.6, "level": 1.5, "layer_rates": {"head": 2}}, "takes all of a layer at once"),
    ],
)
def test_a_cut_that_leaves_next_to_nothing_is_refused_in_words_of_its_own(how, reason, scope):
    with pytest.raises(InputError, match=reason):
        cut(net(), scope=scope, **how)


def test_shuffling_keeps_the_counts_of_layers_and_is_drawn_anew_for_each():
    masks = cut(net(), rate=0.5, level=2)
    one, again, other = shuffled(masks, 1), shuffled(masks, 1), shuffled(masks, 2)
    assert counts(one) == counts(other) == counts(masks)
    assert same(dict(one), dict(again))
    assert not same(dict(one), dict(other))
    assert not same(dict(one), dict(masks))


def test_the_lowest_loss_of_a_log_and_the_first_of_equals():
    rows = [{"iteration": at, "loss": loss} for at, loss in ((5, 0.4), (10, 0.1), (15, 0.1), (20, 0.2))]
    assert early_stop(rows)["iteration"] == 10
    with pytest.raises(InputError, match="no row"):
        early_stop([])


# What each start does


def by_hand(start: str, levels: int, moment: str, folder: Path) -> list[tuple[dict[str, Tensor], Masks]]:
    """Iterative pruning with nothing but `train` and `prune`: the trained state and masks of each level."""
    model = net()
    train(model, toy(), **PLAIN, folder=folder, snapshots=(moment,))
    at = secateur.training.Duration.parse(moment).iterations(PER_EPOCH, PER_EPOCH * EPOCHS)
    origin, masks, found = read_snapshot(folder, at), None, []
    for level in range(1, levels + 1):
        masks = secateur.prune(model, amount=1 - 0.6**level, masks=masks).masks
        rewound = {"weights": {"start_at": moment}, "lr": {"start_at": moment}}
        last = learning_rate(PER_EPOCH * EPOCHS - 1, PER_EPOCH, TrainConfig(**PLAIN))
        changed = rewound.get(start, {"epochs": 2, "lr": last, "schedule": "constant"})
        if start == "weights":
            model.load_state_dict(origin)
        masks.apply_(model)
        train(model, toy(), **{**PLAIN, **changed}, masks=masks)
        found.append((copied(model), masks))
    return found


@pytest.mark.parametrize("moment", ["0it", "2it", "1ep"])
@pytest.mark.parametrize("start", LEADING)
def test_a_chain_is_the_loop_by_hand(start, moment, tmp_path):
    levels = find(
        net(),
        toy(),
        **PLAIN,
        rate=0.4,
        levels=3,
        starts=start,
        rewind_to=moment,
        finetune=2 if start == "none" else None,
    )
    expected = by_hand(start, 3, moment, tmp_path)
    assert [level.number for level in levels] == [0, 1, 2, 3]
    for level, (state, masks) in zip(levels[1:], expected, strict=True):
        assert level.start == start
        assert same(dict(level.masks), dict(masks))
        assert same(dict(level.state), state)
        assert all(not level.state[name][~mask].any() for name, mask in masks.items())


@pytest.fixture(scope="module")
def beside() -> list[lottery.Level]:
    """Two levels of tickets with every baseline beside them, rewound to the second iteration."""
    starts = ("weights", *OTHERS)
    return find(net(), toy(), **PLAIN, rate=0.4, levels=2, starts=starts, rewind_to="2it", make=newly)


def level_of(levels: list[lottery.Level], start: str, number: int) -> lottery.Level:
    (found,) = (level for level in levels if (level.start, level.number) == (start, number))
    return found


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("start", OTHERS)
def test_a_baseline_has_the_counts_of_the_ticket_and_its_own_weights(start, number, beside):
    ticket, other = level_of(beside, "weights", number), level_of(beside, start, number)
    assert counts(other.masks) == counts(ticket.masks)
    assert same(dict(other.masks), dict(ticket.masks)) == (start not in ("reshuffle", "random"))
    assert all(not other.state[name][~mask].any() for name, mask in other.masks.items())
    assert not any(
        same(dict(other.state), dict(each.state)) for each in beside if each is not other
    )  # nothing is drawn twice


@pytest.mark.parametrize("start", OTHERS)
def test_a_baseline_by_hand(start, beside, tmp_path):
    ticket, other = level_of(beside, "weights", 1), level_of(beside, start, 1)
    dense = net()
    train(dense, toy(), **PLAIN, folder=tmp_path, snapshots=("2it",))
    seed = lottery.starts.start_seed(start, 0, 1.0)
    torch.manual_seed(seed)
    model = newly()
    changed: dict[str, Any] = {"start_at": "0it"}
    if start == "reshuffle":
        model.load_state_dict(read_snapshot(tmp_path, 2))
        changed = {"start_at": "2it"}
    if start == "scratch_b":
        spent = cost(dense, toy().example(1), ticket.masks)
        changed = {"epochs": round(EPOCHS * spent.macs / spent.macs_nonzero)}
        assert changed["epochs"] > EPOCHS
    masks = shuffled(ticket.masks, seed) if start in ("reshuffle", "random") else ticket.masks
    masks.apply_(model)
    train(model, toy(), **{**PLAIN, **changed}, masks=masks)
    assert same(dict(other.state), copied(model))


def test_normalisations_take_the_statistics_of_where_they_go_back_to(monkeypatch, tmp_path):
    met: dict[int, Any] = {}

    def watched(model: nn.Module, *arguments: Any, **settings: Any) -> Any:
        met[len(met)] = copied(model)
        return train(model, *arguments, **settings)

    monkeypatch.setattr(lottery.search, "train", watched)
    find(
        net(),
        toy(),
        **PLAIN,
        rate=0.4,
        levels=1,
        starts=["weights", "lr", "reinit"],
        rewind_to="2it",
        make=newly,
    )
    dense = net()
    train(dense, toy(), **PLAIN, folder=tmp_path, snapshots=("2it",))
    expected = [read_snapshot(tmp_path, 2), dense.state_dict(), newly().state_dict()]
    for number, state in enumerate(expected, start=1):
        for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
            assert torch.equal(met[number][name], state[name])


def test_a_search_is_repeatable_and_leaves_the_random_state_alone():
    settings = {**PLAIN, "levels": 1, "starts": ["weights", "random"], "make": newly}
    models = [net(), net()]
    before = torch.get_rng_state()
    one, other = (find(model, toy(), **settings) for model in models)
    assert torch.equal(torch.get_rng_state(), before)
    for level, again in zip(one, other, strict=True):
        assert same(dict(level.state), dict(again.state))


def test_one_shot_cuts_every_level_from_the_dense_model():
    levels = find(net(), toy(), **PLAIN, rate=0.4, levels=2, one_shot=True)
    dense = net()
    train(dense, toy(), **PLAIN)
    for level in levels[1:]:
        assert same(dict(level.masks), dict(secateur.prune(dense, amount=1 - 0.6**level.number).masks))


def test_a_level_tells_of_itself():
    levels = find(net(), toy(), **PLAIN, left=0.5, rate=0.4)
    assert [round(level.left, 2) for level in levels] == [1, 0.6, 0.5]
    assert levels[-1].masks.pruned == 426
    for level in levels:
        assert level.top1 == level.rows[-1]["top1"]
        losses = {row["iteration"]: row["loss"] for row in level.rows}
        assert losses[level.early_stop] == min(losses.values())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"levels": 1, "starts": ("weights", "reinit")}, "pass make="),
        ({"levels": 1, "lr": -1}, "lr cannot be -1"),
        ({"levels": 1, "rewind_to": "soon"}, "no span of training"),
        ({"levels": 1, "cuts": {"criterion": "magnitud"}}, "did you mean magnitude"),
        ({"levels": 1, "layer_rates": {"nothing": 1}}, "No layer that may be cut is 'nothing'"),
        ({"levels": 1, "finetune": 2}, "Nothing is fine-tuned from weights: add none to the starts"),
        ({"levels": 30}, "leaves fewer weights"),
        ({}, "Say how far"),
        ({"levels": 1, "rewind_to": "3ep"}, "no going back to 3ep: the training ends after 9 iterations"),
        ({"levels": 2, "cuts": {"granularity": "2:4"}}, "takes its own fraction at once"),
        ({"levels": 1, "cuts": {"granularity": "channel", "scope": "erk"}}, "no scope for units named"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(settings, reason, monkeypatch):
    monkeypatch.setattr(lottery.search, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(InputError, match=reason):
        find(net(), toy(), **{**PLAIN, **settings})


# How a level is trained


@pytest.mark.parametrize("start", STARTS)
def test_what_is_registered_says_what_it_is(start):
    entry = STARTS[start]
    assert entry.training in TRAININGS
    assert entry.summary
    assert entry.paper
    assert set(entry.needs) <= {"trained", "origin", "fresh", "masks", "seed"}


def test_a_longer_training_stretches_all_that_counts_in_epochs():
    config = TrainConfig(epochs=10, milestones=(4, 8), lr_every=2.5, warmup="1ep", schedule="multistep")
    longer = Course(config, per_epoch=7, saved=2.0).settings("longer")
    assert (longer.epochs, longer.milestones, longer.lr_every, longer.warmup) == (20, (8.0, 16.0), 5.0, "2ep")
    for iteration in range(0, 70, 9):
        assert math.isclose(
            learning_rate(2 * iteration, 7, longer.model_copy(update={"warmup": "0ep"})),
            learning_rate(iteration, 7, config.model_copy(update={"warmup": "0ep"})),
        )
    percent = Course(config.model_copy(update={"warmup": "5%"}), per_epoch=7, saved=2.0).settings("longer")
    assert percent.warmup == "5%"


def test_fine_tuning_goes_on_at_the_last_learning_rate():
    config = TrainConfig(epochs=4, lr=0.1, schedule="multistep", milestones=(2, 3), warmup="1ep")
    tuned = Course(config, per_epoch=5, saved=1.0, finetune=2).settings("finetuned")
    assert [learning_rate(at, 5, tuned) for at in (0, 9)] == pytest.approx([0.001, 0.001])
    assert tuned.epochs == 2
