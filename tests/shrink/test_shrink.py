"""Plans as values, and models made smaller by plans written by hand."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from secateur.core.errors import InputError, ModelError
from secateur.graph.forwards import call_name
from secateur.shrink import Override, Plan, apply, shrink_optimizer
from secateur.shrink.describe import description
from secateur.shrink.overrides import Resized, function_called


def plan_for(model: nn.Module, kept: dict[str, dict[int, list[int]]], **rest: Any) -> Plan:
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    return Plan(
        {name: {dim: torch.tensor(rows) for dim, rows in dims.items()} for name, dims in kept.items()},
        {name: tuple(tensors[name].shape) for name in kept},
        **rest,
    )


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def conv_net() -> ConvNet:
    torch.manual_seed(0)
    net = ConvNet()
    with torch.no_grad():
        net(torch.randn(8, 3, 5, 5))  # running statistics that differ
    return net.eval()


CHANNELS = [0, 2, 5]
ROWS = {0: CHANNELS}
CONV_KEPT = {
    "conv.weight": ROWS,
    "conv.bias": ROWS,
    "norm.weight": ROWS,
    "norm.bias": ROWS,
    "norm.running_mean": ROWS,
    "norm.running_var": ROWS,
    "head.weight": {1: CHANNELS},
}


def masked(net: ConvNet) -> ConvNet:
    """Return the net with the head blind to the channels that go."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        net.head.weight[:, [1, 3, 4]] = 0
    return net


class TestPlan:
    def test_slices_shapes_and_counts(self) -> None:
        net = conv_net()
        plan = plan_for(net, {"conv.weight": {0: [1, 4], 1: [0, 2]}})
        expected = net.conv.weight[[1, 4]][:, [0, 2]]
        assert torch.equal(plan.slice("conv.weight", net.conv.weight), expected)
        assert plan.shape_after("conv.weight") == (2, 2, 3, 3)
        assert plan.counts == (36, 162)
        assert not plan.empty
        assert Plan().empty
        assert not Plan(attributes={"conv:groups": 1}).empty

    @given(data=st.data())
    @settings(max_examples=60, deadline=None, derandomize=True)
    def test_a_slice_is_an_outer_product_in_the_same_layout(self, data: st.DataObject) -> None:
        shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
        order = data.draw(st.permutations(range(len(shape))))
        tensor = torch.arange(float(torch.tensor(shape).prod())).reshape([shape[dim] for dim in order])
        tensor = tensor.permute([order.index(dim) for dim in range(len(shape))])
        rows = {
            dim: sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
            for dim, size in enumerate(shape)
            if data.draw(st.booleans())
        }
        plan = Plan({"t": {dim: torch.tensor(kept) for dim, kept in rows.items()}}, {"t": tuple(shape)})
        small = plan.slice("t", tensor)
        expected = tensor
        for dim, kept in rows.items():
            expected = torch.stack([expected.select(dim, row) for row in kept], dim)
        assert torch.equal(small, expected)
        assert small.permute(order).is_contiguous()
        assert small.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()

    @given(data=st.data())
    @settings(max_examples=60, deadline=None, derandomize=True)
    def test_two_plans_compose_to_one_that_does_both(self, data: st.DataObject) -> None:
        tensor = torch.arange(6.0 * 5).reshape(6, 5)

        def draw(shape: tuple[int, ...]) -> Plan:
            dims = data.draw(st.sets(st.integers(0, 1)))
            rows = {
                dim: sorted(data.draw(st.sets(st.integers(0, shape[dim] - 1), min_size=1))) for dim in dims
            }
            return Plan({"t": {dim: torch.tensor(kept) for dim, kept in rows.items()}}, {"t": shape})

        first = draw((6, 5))
        second = draw(first.shape_after("t"))
        whole = first.then(second)
        assert torch.equal(whole.slice("t", tensor), second.slice("t", first.slice("t", tensor)))
        assert whole.shapes == {"t": (6, 5)}
        assert whole.shape_after("t") == second.shape_after("t")

    def test_of_two_values_the_later_wins(self) -> None:
        place = {"module": "a", "function": "torch.Tensor.view", "argument": (1,)}
        first = Plan(
            attributes={"a:x": 1, "b:y": 2},
            overrides=(Override(**place, nth=0, value=3), Override(**place, nth=1, value=4)),
            standins=("s", "t"),
        )
        second = Plan(
            attributes={"a:x": 5}, overrides=(Override(**place, nth=1, value=6),), standins=("t", "u")
        )
        whole = first.then(second)
        assert whole.attributes == {"a:x": 5, "b:y": 2}
        assert [override.value for override in whole.overrides] == [3, 6]
        assert whole.standins == ("s", "t", "u")

    def test_plans_that_do_not_follow_each_other_are_refused(self) -> None:
        plan = plan_for(conv_net(), CONV_KEPT)
        with pytest.raises(InputError, match="do not follow"):
            plan.then(plan)

    def test_storage_gives_the_plan_back(self) -> None:
        plan = plan_for(
            conv_net(),
            CONV_KEPT,
            attributes={"norm:num_features": 3},
            overrides=(Override("", "torch.Tensor.view", 2, (1, "stop", 0), 7),),
            standins=("attention",),
        )
        tensors, about = plan.pack()
        assert {tensor.dtype for tensor in tensors.values()} == {torch.int32}
        assert "keep:1:head.weight" in tensors
        back = Plan.unpack(tensors, json.loads(json.dumps(about)))
        assert (back.shapes, back.attributes, back.overrides, back.standins) == (
            plan.shapes,
            plan.attributes,
            plan.overrides,
            plan.standins,
        )
        assert {
            name: {dim: rows.tolist() for dim, rows in dims.items()} for name, dims in back.kept.items()
        } == (CONV_KEPT)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda tensors, about: about.pop("shapes"),
            lambda tensors, about: about.update(shapes=[1]),
            lambda tensors, about: about.update(attributes={"a:b": "three"}),
            lambda tensors, about: about.update(attributes={"a:b": True}),
            lambda tensors, about: about.update(overrides=[{"module": ""}]),
            lambda tensors, about: about["overrides"][0].update(argument=[]),
            lambda tensors, about: about.update(standins="abc"),
            lambda tensors, about: about["shapes"].pop("head.weight"),
            lambda tensors, about: about["shapes"].update({"head.weight": [4, 4]}),
            lambda tensors, about: tensors.update(
                {"keep:x:head.weight": torch.tensor([0], dtype=torch.int32)}
            ),
            lambda tensors, about: tensors.update(
                {"keep:7:head.weight": torch.tensor([0], dtype=torch.int32)}
            ),
            lambda tensors, about: tensors.update({"mask:head.weight": torch.tensor([0], dtype=torch.int32)}),
            lambda tensors, about: tensors.update({"keep:1:head.weight": torch.tensor([0.0, 1.0])}),
            *(
                lambda tensors, about, rows=rows: tensors.update(
                    {"keep:1:head.weight": torch.tensor(rows, dtype=torch.int32)}
                )
                for rows in ([], [6], [-1, 2], [2, 1], [1, 1], [[1]])
            ),
        ],
    )
    def test_a_spoilt_file_is_refused(self, spoil: Callable[[dict[str, Tensor], Any], object]) -> None:
        override = Override("", "torch.Tensor.view", 0, (1,), 7)
        tensors, about = plan_for(conv_net(), CONV_KEPT, overrides=(override,)).pack()
        about = json.loads(json.dumps(about))
        spoil(tensors, about)
        with pytest.raises(InputError, match=r"plan|override"):
            Plan.unpack(tensors, about)

    @pytest.mark.parametrize("about", [None, 3, "text", [], {"shapes": {}}])
    def test_what_is_no_plan_is_refused(self, about: Any) -> None:
        with pytest.raises(InputError, match="no plan"):
            Plan.unpack({}, about)

    @pytest.mark.parametrize(
        ("plan", "words"),
        [
            (Plan({"stem.weight": {0: torch.tensor([0])}}, {"stem.weight": (6,)}), "cuts stem.weight"),
            (Plan({"head.weight": {1: torch.tensor([0])}}, {"head.weight": (4, 9)}), r"\[4, 9\], here it is"),
            (Plan(attributes={"stem:groups": 2}), "module stem"),
            (Plan(standins=("stem",)), "module stem"),
            (Plan(standins=("conv",)), "no attention here"),
            (Plan(overrides=(Override("stem", "torch.Tensor.view", 0, (1,), 2),)), "module stem"),
            (Plan(attributes={"conv:depth": 2}), "conv:depth"),
            (Plan(attributes={"conv:kernel_size.5": 2}), "kernel_size.5"),
            (Plan(attributes={"conv:padding_mode": 2}), "no size but str"),
            (Plan(attributes={"conv:weight": 2}), "no size but Parameter"),
        ],
    )
    @pytest.mark.parametrize("inplace", [True, False])
    def test_a_plan_for_another_model_changes_nothing(self, plan: Plan, words: str, inplace: bool) -> None:
        net = conv_net()
        before = copy.deepcopy(net.state_dict())
        with pytest.raises(ModelError, match=words):
            apply(net, plan_for(net, {"conv.bias": ROWS}).then(plan), inplace=inplace)
        torch.testing.assert_close(dict(net.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.parametrize("inplace", [True, False])
class TestApply:
    def test_the_result_computes_what_the_masked_model_does(self, inplace: bool) -> None:
        net = conv_net()
        x = torch.randn(2, 3, 5, 5)
        expected, before = masked(net)(x), net(x)
        small = apply(net, plan_for(net, CONV_KEPT), inplace=inplace)
        assert (small is net) == inplace
        assert type(small) is ConvNet
        torch.testing.assert_close(small(x), expected)
        assert (small.conv.out_channels, small.norm.num_features, small.head.in_features) == (3, 3, 3)
        assert (small.conv.in_channels, small.conv.groups, small.head.out_features) == (3, 1, 4)
        if not inplace:
            torch.testing.assert_close(net(x), before, rtol=0, atol=0)
            assert net.conv.out_channels == 6
            shared = {tensor.data_ptr() for tensor in net.state_dict().values()}
            assert shared.isdisjoint(tensor.data_ptr() for tensor in small.state_dict().values())

    def test_gradients_frozen_state_types_and_modes_survive(self, inplace: bool) -> None:
        class Marked(nn.Parameter):
            pass

        net = conv_net().train()
        net.norm.eval()
        net.conv.weight = Marked(net.conv.weight.detach().clone())
        net.conv.weight.decay = False  # type: ignore[attr-defined]
        net.conv.bias.requires_grad_(False)
        net.half()
        net.conv.weight = Marked(net.conv.weight.detach().float())
        net.conv.weight.decay = False  # type: ignore[attr-defined]
        net.conv.weight.grad = torch.randn(6, 3, 3, 3)
        net.head.bias.grad = torch.ones(4, dtype=torch.half)
        gradient = net.conv.weight.grad.clone()
        small = apply(net, plan_for(net, CONV_KEPT), inplace=inplace)
        assert type(small.conv.weight) is Marked
        assert small.conv.weight.decay is False  # type: ignore[attr-defined]
        assert (small.conv.weight.dtype, small.norm.weight.dtype) == (torch.float32, torch.half)
        assert small.norm.num_batches_tracked.dtype == torch.int64
        assert [p.requires_grad for p in small.conv.parameters()] == [True, False]
        assert (small.training, small.norm.training, small.head.training) == (True, False, True)
        assert torch.equal(small.conv.weight.grad, gradient[CHANNELS])
        assert torch.equal(small.head.bias.grad, torch.ones(4, dtype=torch.half))
        assert small.head.weight.grad is None

    def test_the_result_trains(self, inplace: bool) -> None:
        net = conv_net().train()
        net(torch.randn(2, 3, 5, 5)).sum().backward()
        small = apply(net, plan_for(net, CONV_KEPT), inplace=inplace)
        small.zero_grad()
        small(torch.randn(2, 3, 5, 5)).sum().backward()
        assert small.conv.weight.grad.shape == (3, 3, 3, 3)

    def test_hooks_survive(self, inplace: bool) -> None:
        net, seen = conv_net(), []
        net.conv.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
        net.head.register_forward_pre_hook(lambda module, args: seen.append(module.in_features))
        apply(net, plan_for(net, CONV_KEPT), inplace=inplace)(torch.randn(1, 3, 5, 5))
        assert seen == [3, 3]

    def test_memory_formats_survive(self, inplace: bool) -> None:
        net = conv_net().to(memory_format=torch.channels_last)
        net.conv.weight.grad = torch.randn(6, 3, 3, 3).to(memory_format=torch.channels_last)
        small = apply(net, plan_for(net, CONV_KEPT), inplace=inplace)
        for tensor in (small.conv.weight, small.conv.weight.grad):
            assert tensor.is_contiguous(memory_format=torch.channels_last)
            assert not tensor.is_contiguous()

    def test_tied_tensors_stay_tied_wherever_they_are_held(self, inplace: bool) -> None:
        class Language(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed = nn.Embedding(10, 8)
                self.head = nn.Linear(8, 10, bias=False)
                self.head.weight = self.embed.weight
                self.held = [self.embed.weight]
                self.register_buffer("table", torch.arange(8.0))
                self.alias = self.table

            def forward(self, tokens: Tensor) -> Tensor:
                return self.head(self.embed(tokens) + self.alias)

        net = Language()
        rows = [0, 3, 4, 7]
        tokens = torch.tensor([[1, 2, 9]])
        weight = net.embed.weight.detach()[:, rows].clone()
        small = apply(net, plan_for(net, {"embed.weight": {1: rows}, "table": {0: rows}}), inplace=inplace)
        assert small.head.weight is small.embed.weight is small.held[0]
        assert small.alias is small.table
        assert (small.embed.embedding_dim, small.embed.num_embeddings) == (4, 10)
        assert (small.head.in_features, small.head.out_features) == (4, 10)
        expected = (weight[tokens] + torch.tensor(rows, dtype=torch.float)) @ weight.T
        torch.testing.assert_close(small(tokens), expected)

    @pytest.mark.parametrize(("kind", "projection"), [(nn.LSTM, 0), (nn.LSTM, 1), (nn.GRU, 0), (nn.RNN, 0)])
    def test_recurrent_networks(self, kind: type[nn.RNNBase], projection: int, inplace: bool) -> None:
        options = {"proj_size": projection} if projection else {}
        net = kind(3, 4, num_layers=2, bidirectional=True, batch_first=True, **options).double()  # type: ignore[call-arg]
        gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
        units = [0, 3]
        rows = [gate * 4 + unit for gate in range(gates) for unit in units]
        kept: dict[str, dict[int, list[int]]] = {}
        for name, parameter in net.named_parameters():
            state = projection or 4
            if name.startswith("weight_hr"):
                kept[name] = {1: units}
                continue
            kept[name] = {0: rows}
            if name.startswith("weight_hh") and not projection:
                kept[name][1] = units
            elif name.startswith("weight_ih_l1") and not projection:
                kept[name][1] = [side * state + unit for side in range(2) for unit in units]
            assert parameter.shape[0] == gates * 4
        x = torch.randn(2, 5, 3, dtype=torch.float64)
        whole = copy.deepcopy(net)
        with torch.no_grad():  # the units that go stay at zero: their cell is fed nothing and shown to nobody
            gone = [gate * 4 + unit for gate in range(gates) for unit in (1, 2)]
            for name, parameter in whole.named_parameters():
                if name.startswith("weight_hr"):
                    parameter[:, [1, 2]] = 0
                else:
                    parameter[gone] = 0
        expected, _ = whole(x)
        if not projection:
            expected = expected[..., [0, 3, 4, 7]]
        small = apply(net, plan_for(net, kept), inplace=inplace)
        assert (small.input_size, small.hidden_size, small.proj_size) == (3, 2, projection)
        torch.testing.assert_close(small(x)[0], expected)
        assert all(a is b for a, b in zip(small._flat_weights, small.parameters(), strict=True))

    def test_both_kinds_of_weight_norm(self, inplace: bool) -> None:
        x = torch.randn(2, 5)
        rows = [0, 2]
        for normed, names in (
            (
                parametrizations.weight_norm,
                ("parametrizations.weight.original0", "parametrizations.weight.original1"),
            ),
            (old_weight_norm, ("weight_g", "weight_v")),
        ):
            with pytest.warns(FutureWarning) if normed is old_weight_norm else nullcontext():
                net = normed(nn.Linear(5, 4))
            net(x)
            weight, bias = net.weight.detach().clone(), net.bias.detach().clone()
            kept = {**{name: {0: rows} for name in names}, "bias": {0: rows}}
            small = apply(net, plan_for(net, kept), inplace=inplace)
            torch.testing.assert_close(small.weight, weight[rows])
            torch.testing.assert_close(small(x), x @ weight[rows].T + bias[rows])
            assert small.out_features == 2

    def test_weights_computed_by_other_hooks(self, inplace: bool) -> None:
        x = torch.randn(2, 5)
        rows = [0, 2]
        net = prune.l1_unstructured(nn.Linear(5, 4), "weight", amount=0.3)
        expected = net(x)[:, rows]
        kept = {"weight_orig": {0: rows}, "weight_mask": {0: rows}, "bias": {0: rows}}
        small = apply(net, plan_for(net, kept), inplace=inplace)
        torch.testing.assert_close(small(x), expected)

        normed = spectral_norm(nn.Linear(5, 4)).eval()
        columns = [0, 1, 4]
        normed(x)
        small = apply(
            normed, plan_for(normed, {"weight_orig": {1: columns}, "weight_v": {0: columns}}), inplace=inplace
        )
        assert small.weight.shape == (4, 3)
        assert small(x[:, columns]).shape == (2, 4)
        assert small.in_features == 3

    def test_a_model_that_holds_an_activation_can_be_cut(self, inplace: bool) -> None:
        net = conv_net()
        net.last = net(torch.randn(1, 3, 5, 5))  # deepcopy alone refuses this
        small = apply(net, plan_for(net, CONV_KEPT), inplace=inplace)
        assert small(torch.randn(1, 3, 5, 5)).shape == (1, 4)

    def test_cuts_compose(self, inplace: bool) -> None:
        net = conv_net()
        x = torch.randn(2, 3, 5, 5)
        once = apply(net, plan_for(net, CONV_KEPT))
        second = plan_for(once, {name: {dim: [0, 2] for dim in dims} for name, dims in CONV_KEPT.items()})
        twice = apply(once, second, inplace=inplace)
        direct = apply(net, twice.secateur_plan)
        assert twice.secateur_plan.kept["conv.bias"][0].tolist() == [0, 5]
        torch.testing.assert_close(twice(x), direct(x), rtol=0, atol=0)
        with pytest.raises(ModelError, match="another cut"):
            apply(twice, second)

    def test_copies_and_pickles_of_the_result_work(self, inplace: bool) -> None:
        net = conv_net()
        small = apply(net, plan_for(net, CONV_KEPT), inplace=inplace)
        x = torch.randn(2, 3, 5, 5)
        for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
            assert torch.equal(other(x), small(x))
            assert other.secateur_plan.counts == small.secateur_plan.counts
        assert not any("secateur" in name for name in small.state_dict())


def test_a_model_without_memory_shrinks_too() -> None:
    with torch.device("meta"):
        net = ConvNet()
    small = apply(net, plan_for(net, CONV_KEPT))
    assert small.conv.weight.is_meta
    small = small.to_empty(device="cpu")
    small.load_state_dict(apply(conv_net(), plan_for(conv_net(), CONV_KEPT)).state_dict())
    assert small.eval()(torch.randn(1, 3, 5, 5)).shape == (1, 4)


class Config(SimpleNamespace):
    pass


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.sizes = (config.heads, config.width)
        self.project = nn.Linear(config.heads * config.width, config.heads * config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).view(*x.shape[:-1], self.config.heads, self.sizes[1])


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config(heads=4, width=3, inner=Config(depth=7), list=[1, 2])
        self.blocks = nn.ModuleList(Block(self.config) for _ in range(3))


class TestAttributes:
    def test_items_of_tuples_and_lists(self) -> None:
        small = apply(Stack(), Plan(attributes={"blocks.0:sizes.1": 9, "blocks.1:config.list.0": 8}))
        assert small.blocks[0].sizes == (4, 9)
        assert small.blocks[1].sizes == (4, 3)
        assert small.config.list == [8, 2]

    def test_a_shared_object_follows_where_all_agree(self) -> None:
        net = Stack()
        small = apply(net, Plan(attributes={f"blocks.{index}:config.heads": 2 for index in range(3)}))
        assert small.config is small.blocks[0].config is small.blocks[2].config
        assert (small.config.heads, net.config.heads) == (2, 4)

    def test_a_shared_object_is_parted_where_they_differ(self) -> None:
        net = Stack()
        small = apply(
            net,
            Plan(
                attributes={
                    "blocks.0:config.heads": 2,
                    "blocks.1:config.heads": 4,
                    "blocks.0:config.inner.depth": 1,
                    "blocks.1:config.inner.depth": 2,
                    "blocks.2:config.width": 5,
                }
            ),
        )
        configs = [small.config, *(block.config for block in small.blocks)]
        assert [config.heads for config in configs] == [4, 2, 4, 4]
        assert [config.inner.depth for config in configs] == [7, 1, 2, 7]
        assert [config.width for config in configs] == [5, 5, 5, 5]
        assert configs[0] is configs[3]
        assert net.config == Config(heads=4, width=3, inner=Config(depth=7), list=[1, 2])

    def test_what_was_parted_is_cut_again(self) -> None:
        first = Plan(attributes={"blocks.0:config.heads": 2, "blocks.1:config.heads": 3})
        second = Plan(attributes={"blocks.0:config.heads": 1, "blocks.1:config.heads": 1})
        small = apply(apply(Stack(), first), second)
        assert [block.config.heads for block in small.blocks] == [1, 1, 4]

    def test_one_module_under_two_names_has_one_value(self) -> None:
        net = nn.ModuleDict({"a": (layer := nn.Conv2d(4, 4, 1, groups=4)), "b": layer})
        assert apply(net, Plan(attributes={"a:groups": 2, "b:groups": 2}))["b"].groups == 2
        with pytest.raises(ModelError, match="several names"):
            apply(net, Plan(attributes={"a:groups": 2, "b:groups": 1}))

    def test_a_plan_has_the_last_word(self) -> None:
        net = nn.Conv2d(8, 8, 1, groups=4)
        rows = {0: [2, 3, 6, 7]}
        small = apply(net, plan_for(net, {"weight": rows, "bias": rows}, attributes={":groups": 2}))
        assert (small.in_channels, small.out_channels, small.groups) == (4, 4, 2)
        assert small(torch.randn(1, 4, 3, 3)).shape == (1, 4, 3, 3)
        small = apply(net, plan_for(net, {"weight": rows, "bias": rows}, attributes={":out_channels": 99}))
        assert small.out_channels == 99


Kept = dict[str, dict[int, list[int]]]
ONE: Kept = {"weight": {0: [1]}, "bias": {0: [1]}}
TWO: Kept = {"weight": {0: [0, 3]}, "bias": {0: [0, 3]}}
FOUR: Kept = {"weight": {0: [0, 1, 4, 5]}, "bias": {0: [0, 1, 4, 5]}}
STATISTICS: Kept = {"running_mean": {0: [1]}, "running_var": {0: [1]}}


def channels(inputs: int, outputs: int, groups: int) -> dict[str, Any]:
    return {"in_channels": inputs, "out_channels": outputs, "groups": groups}


LAYERS: list[tuple[nn.Module, Kept, tuple[int, ...], dict[str, Any]]] = [
    (
        nn.Linear(4, 6),
        {"weight": {0: [1, 2], 1: [0, 3]}, "bias": {0: [1, 2]}},
        (2, 2),
        {"in_features": 2, "out_features": 2},
    ),
    (
        nn.Bilinear(4, 5, 6),
        {"weight": {0: [1], 1: [0, 1], 2: [0, 1]}, "bias": {0: [1]}},
        (1, 2),
        {"in1_features": 2, "in2_features": 2, "out_features": 1},
    ),
    (nn.Conv1d(4, 6, 1), {"weight": {1: [0, 3]}}, (1, 2, 5), channels(2, 6, 1)),
    (nn.Conv2d(4, 4, 1, groups=4), TWO, (1, 2, 5, 5), channels(2, 2, 2)),
    (nn.Conv2d(4, 8, 1, groups=2), FOUR, (1, 4, 5, 5), channels(4, 4, 2)),
    (nn.Conv3d(4, 6, 1), ONE, (1, 4, 2, 2, 2), channels(4, 1, 1)),
    (
        nn.ConvTranspose2d(4, 6, 2),
        {"weight": {0: [0, 3], 1: [1]}, "bias": {0: [1]}},
        (1, 2, 5, 5),
        channels(2, 1, 1),
    ),
    (nn.ConvTranspose1d(4, 4, 2, groups=4), TWO, (1, 2, 5), channels(2, 2, 2)),
    (
        nn.ConvTranspose3d(4, 6, 1, groups=2),
        {"weight": {1: [0, 2]}, "bias": {0: [0, 2, 3, 5]}},
        (1, 4, 2, 2, 2),
        channels(4, 4, 2),
    ),
    (nn.BatchNorm1d(4, affine=False), STATISTICS, (3, 1), {"num_features": 1}),
    (nn.BatchNorm3d(4, track_running_stats=False), ONE, (3, 1, 2, 2, 2), {"num_features": 1}),
    (nn.SyncBatchNorm(4), {**ONE, **STATISTICS}, (3, 1), {"num_features": 1}),
    (nn.InstanceNorm2d(4, affine=True), ONE, (3, 1, 4, 4), {"num_features": 1}),
    (nn.GroupNorm(2, 8), FOUR, (3, 4, 4), {"num_channels": 4, "num_groups": 2}),
    (nn.LayerNorm(4), TWO, (3, 2), {"normalized_shape": (2,)}),
    (nn.RMSNorm((3, 4)), {"weight": {1: [1, 2]}}, (1, 3, 2), {"normalized_shape": (3, 2)}),
    (nn.Embedding(5, 4), {"weight": {1: [1, 2]}}, (), {"num_embeddings": 5, "embedding_dim": 2}),
    (nn.EmbeddingBag(5, 4), {"weight": {1: [1, 2]}}, (), {"num_embeddings": 5, "embedding_dim": 2}),
    (nn.PReLU(4), {"weight": {0: [1]}}, (3, 1), {"num_parameters": 1}),
    (nn.GRUCell(4, 2), {"weight_ih": {1: [1, 3]}}, (3, 2), {"input_size": 2, "hidden_size": 2}),
]


@pytest.mark.parametrize(
    ("layer", "kept", "shape", "expected"), LAYERS, ids=[type(case[0]).__name__ for case in LAYERS]
)
def test_standard_modules_describe_themselves(
    layer: nn.Module,
    kept: dict[str, dict[int, list[int]]],
    shape: tuple[int, ...],
    expected: dict[str, Any],
) -> None:
    small = apply(layer.eval(), plan_for(layer, kept))
    assert {name: getattr(small, name) for name in expected} == expected
    assert {name: getattr(small, name) for name in description(small)} == description(small)
    if shape:
        inputs: Iterable[Tensor] = [torch.randn(shape)] * (2 if isinstance(layer, nn.Bilinear) else 1)
        small(*inputs)


def test_attention_describes_itself() -> None:
    rows = [0, 1, 2, 6, 7, 8]  # heads 0 and 2 of four, three wide
    for options in ({}, {"kdim": 5, "vdim": 7}):
        net = nn.MultiheadAttention(12, 4, batch_first=True, dtype=torch.float64, **options).eval()  # type: ignore[arg-type]
        three = [part * 12 + row for part in range(3) for row in rows]
        kept: dict[str, dict[int, list[int]]] = {"in_proj_bias": {0: three}, "out_proj.weight": {1: rows}}
        packed = (
            {f"{part}_proj_weight": {0: rows} for part in "qkv"}
            if options
            else {"in_proj_weight": {0: three}}
        )
        small = apply(net, plan_for(net, {**kept, **packed}, attributes={":num_heads": 2}, standins=("",)))
        assert (small.embed_dim, small.head_dim, small.num_heads) == (12, 3, 2)
        assert (small.kdim, small.vdim) == (net.kdim, net.vdim)
        assert (small.out_proj.in_features, small.out_proj.out_features) == (6, 12)
        q, k, v = (torch.randn(2, 5, width, dtype=torch.float64) for width in (12, net.kdim, net.vdim))
        whole = copy.deepcopy(net)
        with torch.no_grad():
            whole.out_proj.weight[:, [3, 4, 5, 9, 10, 11]] = 0
        torch.testing.assert_close(small(q, k, v)[0], whole(q, k, v)[0])
        again = apply(small, Plan(attributes={":num_heads": 2}))
        torch.testing.assert_close(again(q, k, v)[0], small(q, k, v)[0])


class Literal(nn.Module):
    """Its forward knows its sizes by heart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor, flip: bool = False) -> Tensor:
        x = self.conv(x).view(-1, 6 * 4)
        x = x.reshape((-1, 6, 4))[:, :6]
        return self.head(torch.narrow(x, dim=1, start=0, length=6).flatten(1))


def literal() -> tuple[Literal, Plan]:
    torch.manual_seed(0)
    net = Literal()
    columns = [channel * 4 + pixel for channel in CHANNELS for pixel in range(4)]
    plan = plan_for(
        net,
        {"conv.weight": ROWS, "conv.bias": ROWS, "head.weight": {1: columns}},
        overrides=(
            Override("", "torch.Tensor.view", 0, (2,), 12),
            Override("", "torch.Tensor.reshape", 0, (1, 1), 3),
            Override("", "torch.Tensor.__getitem__", 0, (1, 1, "stop"), 3),
            Override("", "torch.narrow", 0, ("length",), 3),
        ),
    )
    return net, plan


class TestOverrides:
    def expected(self, net: Literal, x: Tensor) -> Tensor:
        columns = [channel * 4 + pixel for channel in CHANNELS for pixel in range(4)]
        return net.conv(x)[:, CHANNELS].flatten(1) @ net.head.weight[:, columns].T + net.head.bias

    def test_sizes_written_in_code_are_replaced(self) -> None:
        net, plan = literal()
        x = torch.randn(2, 3, 2, 2)
        small = apply(net, plan)
        for _ in range(2):  # calls are counted from the start of each forward
            torch.testing.assert_close(small(x), self.expected(net, x))
        assert inspect.signature(small.forward) == inspect.signature(net.forward)
        small.train()(x).sum().backward()
        assert small.conv.weight.grad.shape == (3, 3, 1, 1)

    def test_scales_written_in_code_are_replaced(self) -> None:
        class Scaled(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.mul(x, 0.5)

        place = Override("", "torch.mul", 0, (1,), 0.25)
        tensors, about = Plan(overrides=(place,)).pack()
        small = apply(Scaled(), Plan.unpack(tensors, json.loads(json.dumps(about))))
        assert small(torch.tensor(2.0)) == 0.5

    def test_copies_have_their_own(self) -> None:
        net, plan = literal()
        x = torch.randn(2, 3, 2, 2)
        small = apply(net, plan)
        for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
            assert other.forward.module is other
            torch.testing.assert_close(other(x), small(x))
            with torch.no_grad():
                other.head.weight.zero_()
            torch.testing.assert_close(small(x), self.expected(net, x))

    def test_another_cut_replaces_them(self) -> None:
        net, plan = literal()
        small = apply(net, plan)
        view = Override("", "torch.Tensor.view", 0, (2,), 8)
        rest = (
            Override("", "torch.Tensor.reshape", 0, (1, 1), 2),
            Override("", "torch.Tensor.__getitem__", 0, (1, 1, "stop"), 2),
            Override("", "torch.narrow", 0, ("length",), 2),
        )
        kept = {"conv.weight": {0: [0, 1]}, "conv.bias": {0: [0, 1]}, "head.weight": {1: list(range(8))}}
        twice = apply(small, plan_for(small, kept, overrides=(view, *rest)))
        assert isinstance(twice.forward, Resized)
        assert twice.forward.replaced is None
        assert twice(torch.randn(2, 3, 2, 2)).shape == (2, 5)
        assert len(twice.secateur_plan.overrides) == 4

    def test_compile_from_cold_and_export(self) -> None:
        net, plan = literal()
        small = apply(net, plan).eval()
        x = torch.randn(2, 3, 2, 2)
        call_name.cache_clear()
        compiled = torch.compile(small, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), self.expected(net, x))
        program = torch.export.export(small, (x,))
        torch.testing.assert_close(program.module()(x), self.expected(net, x))

    def test_data_parallel_training(self, tmp_path: Path) -> None:
        net, plan = literal()
        small = apply(net, plan)
        x = torch.randn(2, 3, 2, 2)
        small(x).sum().backward()
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
        )
        try:
            parallel = nn.parallel.DistributedDataParallel(copy.deepcopy(small))
            parallel.zero_grad()
            output = parallel(x)
            output.sum().backward()
        finally:
            torch.distributed.destroy_process_group()
        torch.testing.assert_close(output, self.expected(net, x))
        torch.testing.assert_close(parallel.module.conv.weight.grad, small.conv.weight.grad)

    def test_calls_of_children_count_and_a_foreign_forward_is_kept(self) -> None:
        net = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (2, 6)))
        outer = nn.Sequential(net, nn.Unflatten(1, (2, 3)))
        calls = []
        original = outer.forward
        outer.forward = lambda x: calls.append(x.shape) or original(x)  # type: ignore[method-assign]
        place = Override("", "torch.Tensor.unflatten", 1, (2, 1), 1)
        other = Override("0", "torch.Tensor.unflatten", 0, (2, 1), 2)
        small = apply(outer, Plan(overrides=(place, other)), inplace=True)
        assert small(torch.zeros(4)).shape == (2, 2, 1)
        assert calls == [(4,)]

    def test_names_lead_to_functions_and_back(self) -> None:
        for function in (
            torch.Tensor.view,
            torch.narrow,
            nn.functional.interpolate,
            torch.Tensor.__getitem__,
        ):
            assert function_called(call_name(function)) is function
        assert call_name(torch.Tensor.view) == "torch.Tensor.view"
        assert call_name(torch.nn.init.zeros_) == "torch.nn.init.zeros_"

    @pytest.mark.parametrize("name", ["torch.Tensor.no_such", "os.system", "torch", "", "torch.nn"])
    def test_a_function_that_torch_lacks_is_refused(self, name: str) -> None:
        net = conv_net()
        plan = plan_for(net, CONV_KEPT, overrides=(Override("", name, 0, (1,), 2),))
        with pytest.raises(InputError, match="no such function"):
            apply(net, plan, inplace=True)
        assert net.conv.weight.shape[0] == 6


OPTIMIZERS: dict[str, Callable[[Iterable[Any]], torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01, amsgrad=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.01),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.9),
}


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimiser_goes_on_as_if_the_rest_had_never_been(kind: str, inplace: bool) -> None:
    net = conv_net().double()
    foreign = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = OPTIMIZERS[kind](
        [
            {"params": [*net.conv.parameters(), *net.norm.parameters()]},
            {"params": [*net.head.parameters(), foreign]},
        ]
    )
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        foreign.grad = torch.ones_like(foreign)
        optimizer.step()
    dense = copy.deepcopy(net)
    twin = OPTIMIZERS[kind](
        [
            {"params": [*dense.conv.parameters(), *dense.norm.parameters()]},
            {"params": [*dense.head.parameters(), foreign.detach().clone().requires_grad_()]},
        ]
    )
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plan = plan_for(net, CONV_KEPT)
    small = apply(net, plan, inplace=inplace)
    shrink_optimizer(optimizer, plan, net, small)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [*small.parameters(), foreign]
    assert set(optimizer.state) == {*small.parameters(), foreign}
    small.zero_grad()
    small(x).square().sum().backward()
    for (name, mine), theirs in zip(small.named_parameters(), dense.parameters(), strict=True):
        full = torch.zeros_like(theirs)
        index = torch.meshgrid(
            *(plan.kept.get(name, {}).get(dim, torch.arange(size)) for dim, size in enumerate(theirs.shape)),
            indexing="ij",
        )
        full[index] = mine.grad
        theirs.grad = full
    optimizer.step()
    twin.step()
    for (name, mine), theirs in zip(small.named_parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(
            mine, plan.slice(name, theirs.detach()).requires_grad_(), rtol=1e-12, atol=1e-12
        )


def test_factored_state_is_cut_and_other_state_is_refused() -> None:
    net = nn.Linear(6, 4)
    plan = plan_for(net, {"weight": {0: [1, 2], 1: [0, 5]}, "bias": {0: [1, 2]}})
    optimizer = torch.optim.Adafactor(net.parameters())
    net(torch.randn(2, 6)).sum().backward()
    optimizer.step()
    small = apply(net, plan)
    row = optimizer.state[net.weight]["row_var"].clone()
    shrink_optimizer(optimizer, plan, net, small)
    assert torch.equal(optimizer.state[small.weight]["row_var"], row[[1, 2]])
    small(torch.randn(2, 2)).sum().backward()
    optimizer.step()

    strange = torch.optim.SGD(net.parameters(), lr=0.1)
    strange.state[net.weight]["preconditioner"] = torch.eye(5)
    with pytest.raises(InputError, match="start a new optimiser"):
        shrink_optimizer(strange, plan, net, small)
    assert strange.param_groups[0]["params"][0] is net.weight
