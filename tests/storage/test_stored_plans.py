"""Smaller models on disk: what was cut is cut again, exactly, and a file that makes no sense changes nothing."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sized_net
import structural_zoo as zoo
import torch
from sized_net import IMAGES, Net
from torch import Tensor, nn

import secateur
from secateur.core.errors import ModelError, SecateurError, StoreError
from secateur.graph.trace import tensors_of
from secateur.pruning.result import Pruned
from secateur.runs.run import Run
from secateur.shrink import Override, Plan, apply
from secateur.shrink.plan import named_tensors
from secateur.storage import container, model_files

CASES = [
    "sequential",
    "literal_view",
    "channel_shuffle_attributes",
    "grouped_conv",
    "depthwise",
    "weight_norm_old",
    "weight_norm_parametrised",
    "spectral_norm_parametrised",
    "group_norm",
    "channels_last_block",
    "lstm_stacked_both_ways_time_first",
    "lstm_projected",
    "gru",
    "fused_qkv_attributes",
    "mha_cross",
    "mha_kdim_vdim",
    "encoder_layer",
    "grouped_query_2",
    "shifted_window_attention",
    "tied_embeddings",
    "keyword_inputs",
]


def cut(model: nn.Module, amount: float = 0.5, **options: Any) -> Pruned:
    return secateur.prune(model, IMAGES, amount=amount, granularity="channel", scope="local", **options)


def plan_of(model: nn.Module) -> Plan:
    return model.secateur_plan  # type: ignore[return-value]


def same_plans(one: Plan, other: Plan) -> bool:
    (tensors, about), (others, abouts) = one.pack(), other.pack()
    return (
        about == abouts
        and tensors.keys() == others.keys()
        and all(map(torch.equal, tensors.values(), others.values()))
    )


def snapshot(model: nn.Module) -> Any:
    """Everything of a model that a load that fails might have changed."""
    tensors = {name: (id(tensor), tensor.clone()) for name, tensor in named_tensors(model).items()}
    fields = {name: copy.copy(module.__dict__) for name, module in model.named_modules()}
    return tensors, fields


def untouched(model: nn.Module, before: Any) -> bool:
    tensors, fields = before
    now = named_tensors(model)
    return (
        now.keys() == tensors.keys()
        and all(
            id(now[name]) == key and torch.equal(now[name], value) for name, (key, value) in tensors.items()
        )
        and all(dict(module.__dict__) == fields[name] for name, module in model.named_modules())
    )


@torch.no_grad()
def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    return tensors_of(zoo.run(model.eval(), inputs))


# --- what comes back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_smaller_model_comes_back_exactly(tmp_path: Path, name: str) -> None:
    case, fresh = zoo.CASES[name](), zoo.CASES[name]().model
    result = secateur.prune(
        case.model, case.inputs, granularity="channel", amount=0.5, scope="local", verify=False
    )
    secateur.save(result, tmp_path / "m")
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.uniform_()
    assert secateur.load(tmp_path / "m", into=fresh) is fresh
    expected = outputs(result.model, case.inputs)
    assert all(map(torch.equal, outputs(fresh, case.inputs), expected))
    assert sum(p.numel() for p in fresh.parameters()) < sum(p.numel() for p in case.model.parameters())
    secateur.load(tmp_path / "m", into=fresh)  # it has the small shapes now: only values
    assert all(map(torch.equal, outputs(fresh, case.inputs), expected))
    secateur.save(fresh, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, secateur
from sized_net import IMAGES, Net
model = secateur.load(sys.argv[2], into=Net(seed=9)).eval()
secateur.storage.model_files.write_tree(sys.argv[3], {"y": model(IMAGES)})
assert secateur.load(sys.argv[4]).fc[-1].weight.shape[1] < 84
"""


def test_a_new_process_gives_the_same_outputs(tmp_path: Path) -> None:
    model = cut(Net()).model.eval()
    secateur.save(model, tmp_path / "m")
    named = secateur.build("lenet5", num_classes=4, input_shape=(1, 28, 28))
    small = secateur.prune(named, torch.randn(1, 1, 28, 28), granularity="channel", amount=0.5)
    secateur.save(small, tmp_path / "named")
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT.replace("fc[-1]", last_linear(named)),
            str(Path(sized_net.__file__).parent),
        ]
        + [str(tmp_path / name) for name in ("m", "y", "named")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert torch.equal(model_files.read_tree(tmp_path / "y")["y"], model(IMAGES))


def last_linear(model: nn.Module) -> str:
    path = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    return f'get_submodule("{path}")'


def test_a_model_built_by_name_is_built_and_cut(tmp_path: Path) -> None:
    model = secateur.build("convnet", num_classes=3, input_shape=(1, 8, 8))
    inputs = torch.randn(2, 1, 8, 8)
    result = secateur.prune(model.double().eval(), inputs.double(), granularity="channel", amount=0.5)
    secateur.save(result, tmp_path / "m")
    other = secateur.load(tmp_path / "m")
    assert type(other) is type(model)
    assert {p.dtype for p in other.parameters()} == {torch.float64}
    assert torch.equal(other.eval()(inputs.double()), result.model(inputs.double()))
    assert same_plans(plan_of(other), plan_of(result.model))


def test_ties_frozen_layers_and_modes_are_the_models_own(tmp_path: Path) -> None:
    secateur.save(cut(Net()), tmp_path / "m")
    fresh = Net(seed=1).to(torch.float64).eval()
    weight, hook = fresh.first.weight, []
    fresh.first.register_forward_hook(lambda *_: hook.append(1))
    secateur.load(tmp_path / "m", into=fresh)
    assert fresh.first.weight is weight  # what an optimiser made before holds
    assert fresh.last is fresh.again
    assert not fresh.training
    assert [p.requires_grad for p in fresh.norm.parameters()] == [False, False]
    assert {p.dtype for p in fresh.parameters()} == {torch.float64}
    assert len(fresh.shift) == 4
    fresh(IMAGES.double())
    assert hook == [1]


def test_a_plan_is_in_what_is_read(tmp_path: Path) -> None:
    result = cut(Net())
    secateur.save(result, tmp_path / "small")
    secateur.save(Net(), tmp_path / "full")
    stored = model_files.read(tmp_path / "small")
    assert stored.plan is not None
    assert same_plans(stored.plan, result.plan)
    assert stored.state.keys() == result.model.state_dict().keys()
    assert model_files.read(tmp_path / "full").plan is None


def test_retrained_and_cut_again_the_plan_leads_from_the_full_model(tmp_path: Path) -> None:
    model = cut(Net()).model.train()
    stepper = torch.optim.SGD(model.parameters(), lr=0.1)
    model(IMAGES).square().sum().backward()
    stepper.step()
    secateur.save(model, tmp_path / "trained")
    loaded = secateur.load(tmp_path / "trained", into=Net(1))
    assert torch.equal(loaded.eval()(IMAGES), model.eval()(IMAGES))
    again = cut(loaded).model
    assert again.first.out_channels == 2
    secateur.save(again, tmp_path / "twice")
    twice = secateur.load(tmp_path / "twice", into=Net(2)).eval()
    assert torch.equal(twice(IMAGES), again.eval()(IMAGES))
    assert plan_of(twice).shapes["first.weight"] == (8, 3, 3, 3)


def test_masks_beside_a_plan(tmp_path: Path) -> None:
    small = cut(Net()).model
    sparse = secateur.prune(small, amount=0.5)
    secateur.save(sparse, tmp_path / "m")
    loaded = secateur.load(tmp_path / "m", into=Net(1))
    masks = secateur.load_masks(tmp_path / "m")
    assert masks.keys() == sparse.masks.keys()
    assert all(torch.equal(masks[name], sparse.masks[name]) for name in masks)
    masks.of(loaded)
    assert torch.equal(loaded.eval()(IMAGES), sparse.model.eval()(IMAGES))


def test_a_run_folder_gives_the_smaller_model_back(tmp_path: Path) -> None:
    model = secateur.build("convnet", num_classes=10, input_shape=(1, 8, 8))
    inputs = torch.randn(2, 1, 8, 8)
    result = secateur.prune(model.eval(), inputs, granularity="channel", amount=0.5)
    start = Run(tmp_path, {"name": "convnet", "args": {}}, {"name": "digits"}, (1, 8, 8), 10)
    start.record(result.model, result.masks, {"do": "prune", "config": {}}, {}, 1.0, tmp_path / "small")
    loaded, masks = Run.open(tmp_path / "small").load_model()
    assert not masks
    assert torch.equal(loaded.eval()(inputs), result.model(inputs))
    assert same_plans(plan_of(loaded), result.plan)


def test_old_files_load_into_a_cut_model_of_their_shapes(tmp_path: Path) -> None:
    """A file without a plan holds values only."""
    model = cut(Net()).model
    bare = copy.deepcopy(model)
    object.__delattr__(bare, "secateur_plan")
    secateur.save(bare, tmp_path / "m")
    assert torch.equal(secateur.load(tmp_path / "m", into=model)(IMAGES), bare(IMAGES))


# --- what is refused -----------------------------------------------------------------------------------------


def refused(path: Path, model: nn.Module, kind: type[SecateurError], match: str | None = None) -> None:
    before = snapshot(model)
    with pytest.raises(kind, match=match) as caught:
        secateur.load(path, into=model)
    assert "\n" not in str(caught.value)
    assert untouched(model, before)


class Wider(Net):
    def __init__(self) -> None:
        super().__init__()
        self.last = self.again = nn.Linear(8 * 16, 7)


@pytest.mark.parametrize(
    "other",
    [Wider(), nn.Linear(3, 3), nn.Sequential(*Net().children()), nn.Sequential(Net())],
    ids=["other classes", "other class", "other names", "wrapped"],
)
def test_another_model_is_left_as_it_was(tmp_path: Path, other: nn.Module) -> None:
    secateur.save(cut(Net()), tmp_path / "m")
    refused(tmp_path / "m", other, ModelError)


def test_a_model_cut_otherwise_is_left_as_it_was(tmp_path: Path) -> None:
    secateur.save(cut(Net()), tmp_path / "half")
    refused(tmp_path / "half", cut(Net(), 0.25).model, ModelError, "another cut")
    other = cut(Net(), criterion="random", seed=3).model
    assert not same_plans(plan_of(other), plan_of(cut(Net()).model))
    refused(tmp_path / "half", other, ModelError, "removed other units")
    secateur.save(Net(), tmp_path / "full")
    refused(tmp_path / "full", cut(Net()).model, ModelError, "another model")


def test_a_model_that_takes_no_values_is_left_as_it_was(tmp_path: Path) -> None:
    class Picky(Net):
        def _load_from_state_dict(self, *args: Any) -> None:
            raise RuntimeError("no, thanks")

    secateur.save(cut(Net()), tmp_path / "m")
    refused(tmp_path / "m", Picky(), ModelError, "no, thanks")


def test_a_layer_replaced_after_the_cut_is_not_stored(tmp_path: Path) -> None:
    model = cut(Net()).model
    model.last = model.again = nn.Linear(8, 3)
    with pytest.raises(ModelError, match=r"last\.weight is \[3, 8\], where the model's cut left \[6, 64\]"):
        secateur.save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> Path:
    """Write the file of a smaller model with something changed in its tensors or its description."""
    secateur.save(cut(Net()), path)
    tensors, header = container.read_container(path, "model")
    change(tensors, header)
    container.write_container(path, "model", tensors, header)
    return path


JUNK: list[Any] = [
    None,
    3,
    "x",
    True,
    [],
    [1],
    {},
    {"shapes": {}},
    {"shapes": 3, "attributes": [], "overrides": 1},
]


@pytest.mark.parametrize("junk", JUNK, ids=str)
def test_a_plan_of_wrong_types_is_refused(tmp_path: Path, junk: Any) -> None:
    path = rewritten(tmp_path / "m", lambda _, header: header.update(plan=junk))
    refused(path, Net(), StoreError, "its description does not fit its tensors")
    with pytest.raises(StoreError):
        secateur.load_masks(path)


ROWS = "plan:keep:0:first.weight"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (ROWS, torch.tensor([0, 1, 2], dtype=torch.int32)),
        (ROWS, torch.tensor([0, 1, 2, 8], dtype=torch.int32)),
        (ROWS, torch.tensor([-1, 1, 2, 3], dtype=torch.int32)),
        (ROWS, torch.tensor([3, 2, 1, 0], dtype=torch.int32)),
        (ROWS, torch.tensor([1, 1, 2, 3], dtype=torch.int32)),
        (ROWS, torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)),
        (ROWS, torch.tensor([], dtype=torch.int32)),
        (ROWS, torch.tensor([0.0, 1.0, 2.0, 3.0])),
        ("plan:keep:9:first.weight", torch.tensor([0], dtype=torch.int32)),
        ("plan:keep:0:nowhere", torch.tensor([0], dtype=torch.int32)),
        ("plan:keep:x:first.weight", torch.tensor([0], dtype=torch.int32)),
        ("plan:", torch.tensor([0], dtype=torch.int32)),
        ("first.weight", torch.rand(8, 3, 3, 3)),
    ],
)
def test_indices_that_make_no_sense_are_refused(tmp_path: Path, key: str, value: Tensor) -> None:
    path = rewritten(tmp_path / "m", lambda tensors, _: tensors.update({key: value}))
    refused(path, Net(), StoreError, "its description does not fit its tensors")


def test_a_plan_or_its_indices_missing_are_refused(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "m", lambda _, header: header.pop("plan"))
    refused(path, Net(), ModelError, "another model")
    path = rewritten(tmp_path / "m", lambda tensors, _: tensors.pop(ROWS))
    refused(path, Net(), StoreError, "its description does not fit its tensors")


@pytest.mark.parametrize(
    "plan",
    [
        {"attributes": {"first:nothing": 3}},
        {"attributes": {"first:weight": 3}},
        {"attributes": {"nowhere:width": 3}},
        {"attributes": {"first:__class__.dump_patches": 1}},
        {"attributes": {"first:_version": 1}},
        {"attributes": {"first:extra_repr.size": 1}},
        {"attributes": {"first:kind.dump_patches": 1}},
        {"attributes": {":": 3}},
        {"standins": ["first"]},
        {"standins": ["nowhere"]},
        {"overrides": [Override("nowhere", "torch.Tensor.view", 0, (2,), 4)]},
        {"overrides": [Override("", "torch.nothing", 0, (2,), 4)]},
        {"overrides": [Override("", "torch.os.system", 0, (0,), 4)]},
        {"overrides": [Override("", "torch", 0, (0,), 4)]},
        {"overrides": [Override("", "", 0, (0,), 4)]},
    ],
    ids=str,
)
def test_changes_of_code_that_make_no_sense_are_refused(tmp_path: Path, plan: dict[str, Any]) -> None:
    plan = {
        **plan,
        "overrides": [{**vars(each), "argument": list(each.argument)} for each in plan.get("overrides", [])],
    }
    path = rewritten(tmp_path / "m", lambda _, header: header["plan"].update(plan))
    model = Net()
    model.first.kind = nn.Conv2d  # a class that a module holds, as factories of layers are
    version, patches = nn.Conv2d._version, nn.Conv2d.dump_patches
    refused(path, model, ModelError)
    assert (nn.Conv2d._version, nn.Conv2d.dump_patches) == (version, patches)


def test_a_plan_that_cuts_one_tensor_of_several_is_refused_by_the_shapes(tmp_path: Path) -> None:
    small = apply(Net(), Plan({"first.bias": {0: torch.tensor([0])}}, {"first.bias": (8,)}))
    secateur.save(small, tmp_path / "m")
    tensors, header = container.read_container(tmp_path / "m", "model")
    tensors["first.bias"] = torch.rand(2)
    container.write_container(tmp_path / "m", "model", tensors, header)
    refused(tmp_path / "m", Net(), StoreError)


def test_files_hold_nothing_but_tensors_and_json(tmp_path: Path) -> None:
    secateur.save(cut(Net()), tmp_path / "m")
    content = (tmp_path / "m").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header["__metadata__"]["secateur"])["header"]["plan"]["shapes"]["first.bias"] == [8]
    assert len(content) == 8 + length + max(
        e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"
    )
