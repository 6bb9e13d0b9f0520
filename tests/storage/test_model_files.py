"""Model files and training states: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import copy
import errno
import json
import math
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur import models
from secateur.core.errors import InputError, ModelError, SecateurError, StoreError
from secateur.pruning.api import prune
from secateur.storage import container, model_files
from secateur.storage.model_files import load, load_masks, read_tree, save, write_tree

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SLOW_FOLDER = [HealthCheck.function_scoped_fixture]


class Tied(nn.Module):
    """Tied weights, a layer used twice, buffers, an empty tensor, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.body = nn.Linear(4, 4)
        self.again = self.body
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.rand(()))
        self.empty = nn.Parameter(torch.rand(0, 3))
        self.register_buffer("table", torch.arange(6).reshape(2, 3).t())
        self.register_buffer("passing", torch.rand(3), persistent=False)


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5)).to(dtype)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts agree bit for bit, dtypes too."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(
            one[name].contiguous().view(-1).view(torch.uint8),
            other[name].contiguous().view(-1).view(torch.uint8),
        )
        for name in one
    )


def complaint(action: Callable[[], object]) -> str | None:
    """The sentence of an error of ours, None where nothing is refused; other errors pass through."""
    try:
        action()
    except SecateurError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return str(error)
    return None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_model_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    model = net(dtype=dtype)
    model[1].running_mean.normal_()
    model[1].num_batches_tracked.fill_(7)
    with torch.no_grad():
        model[3].bias[:4] = torch.tensor([math.nan, math.inf, -0.0, 0.0])
    save(model, tmp_path / "m.safetensors")
    other = net(seed=1, dtype=dtype)
    assert load(tmp_path / "m.safetensors", into=other) is other
    assert same(state(other), state(model))
    assert names(tmp_path) == ["m.safetensors"]


def test_tied_empty_and_buffered_tensors_come_back(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    save(model, tmp_path / "m")
    load(tmp_path / "m", into=other)
    assert same(state(other), state(model))
    assert other.head.weight is other.embed.weight
    with safe_open(tmp_path / "m", framework="pt") as file:  # shared memory is written once
        stored = list(file.keys())
    assert ("head.weight" in stored) + ("embed.weight" in stored) == 1
    assert ("body.weight" in stored) + ("again.weight" in stored) == 1
    assert not torch.equal(other.passing, model.passing)  # no part of the state


def test_memory_layout_is_the_models_own(tmp_path: Path) -> None:
    model = net().to(memory_format=torch.channels_last)
    save(model, tmp_path / "last")
    save(net(), tmp_path / "plain")
    assert (tmp_path / "last").read_bytes() == (tmp_path / "plain").read_bytes()
    other = net(seed=1).to(memory_format=torch.channels_last)
    load(tmp_path / "plain", into=other)
    assert other[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert same(state(other), state(model))


def test_tensors_that_overlap_come_back(tmp_path: Path) -> None:
    class Overlapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.rand(10)
            for name, part in (
                ("whole", whole),
                ("view", whole[2:5]),
                ("strided", whole[::3]),
                ("row", whole.expand(4, 10)),
            ):
                self.register_buffer(name, part)

    model, other = Overlapping(), Overlapping()
    other.row = torch.empty(4, 10)
    save(model, tmp_path / "m")
    other = copy.deepcopy(other)
    for name in ("view", "strided"):
        setattr(other, name, getattr(other, name).clone())
    load(tmp_path / "m", into=other)
    assert same(state(other), state(model))


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(prune(net(), amount=0.5), tmp_path / name, about={"accuracy": 0.9, "note": "x"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_into_keeps_its_dtype_and_mode(tmp_path: Path) -> None:
    save(net(dtype=torch.bfloat16), tmp_path / "m")
    other = net(seed=1).eval()
    load(tmp_path / "m", into=other)
    assert other[0].weight.dtype == torch.float32
    assert not other.training
    assert torch.equal(other[0].weight, net(dtype=torch.bfloat16)[0].weight.float())


def test_what_is_written_beside_the_model(tmp_path: Path) -> None:
    save(net(), tmp_path / "m", about={"accuracy": 0.5, "model": "mine", "nested": [1, {"a": None}]})
    stored = model_files.read(tmp_path / "m")
    assert stored.about == {"accuracy": 0.5, "model": "mine", "nested": [1, {"a": None}]}
    assert stored.model is None
    assert not stored.masks


# --- masks -------------------------------------------------------------------------------------------------


def test_masks_come_back_and_take_one_bit_a_weight(tmp_path: Path) -> None:
    model = nn.Linear(999, 80, bias=False)
    result = prune(model, amount=0.73)
    save(result, tmp_path / "m")
    masks = load_masks(tmp_path / "m")
    assert list(masks) == ["weight"]
    assert torch.equal(masks["weight"], result.masks["weight"])
    other = nn.Linear(999, 80, bias=False)
    load(tmp_path / "m", into=other)
    assert torch.equal(other.weight, result.model.weight)
    save(model, tmp_path / "bare")
    added = (tmp_path / "m").stat().st_size - (tmp_path / "bare").stat().st_size
    assert 0 <= added - 999 * 80 / 8 < 250  # besides the bits, their entry in the header


def test_masks_may_be_given_apart(tmp_path: Path) -> None:
    result = prune(net(), amount=0.5)
    other = prune(net(), amount=0.9)
    save(result.model, tmp_path / "bare")
    save(result.model, tmp_path / "apart", masks=result.masks)
    save(result, tmp_path / "others", masks=other.masks)
    assert len(load_masks(tmp_path / "bare")) == 0
    assert load_masks(tmp_path / "apart").pruned == result.masks.pruned
    assert load_masks(tmp_path / "others").pruned == other.masks.pruned


def test_masks_of_another_model_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another model"):
        save(net(), tmp_path / "m", masks={"3.weight": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(InputError, match="boolean"):
        save(net(), tmp_path / "m", masks={"3.weight": torch.ones(5, 12)})
    assert names(tmp_path) == []


# --- by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_registered_models_say_how_they_were_built(name: str) -> None:
    with torch.device("meta"):
        shape = models.MODELS[name].input_shape
        model = models.build(name, num_classes=7, input_shape=shape)
    spec = {"name": name, "args": {}, "num_classes": 7, "input_shape": list(shape)}
    assert model.secateur_spec == spec == json.loads(json.dumps(spec))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_model_is_built_again_by_its_name(tmp_path: Path, dtype: torch.dtype) -> None:
    model = models.build("vgg11_bn", num_classes=3, input_shape=(1, 32, 32), width=0.05).to(dtype)
    result = prune(model, amount=0.8)
    save(result, tmp_path / "m")
    other = load(tmp_path / "m")
    assert type(other) is type(model)
    assert other.training
    assert same(state(other), state(result.model))
    assert all(parameter.requires_grad for parameter in other.parameters())
    save(other, tmp_path / "again", masks=result.masks)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_models_of_libraries_are_built_again_without_fetching(tmp_path: Path) -> None:
    model = models.build("torchvision:squeezenet1_1", num_classes=3)
    save(model, tmp_path / "m")
    assert same(state(load(tmp_path / "m")), state(model))


def test_arguments_that_are_no_json_leave_no_name(tmp_path: Path, own_code: str) -> None:
    model = models.build(f"{own_code}:make", activation=nn.ReLU())
    assert not hasattr(model, "secateur_spec")
    save(model, tmp_path / "m")
    with pytest.raises(InputError, match=r"does not say how to build its model: pass a fresh one with into="):
        load(tmp_path / "m")


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's that leaves a trace when imported."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "users_own.py").write_text(
        "from pathlib import Path\nfrom torch import nn\nPath(__file__).with_name('trace').touch()\n"
        "def make(size=3, activation=None):\n    return nn.Linear(size, 2)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield "users_own"
    sys.modules.pop("users_own", None)


def test_code_named_in_a_file_is_imported_only_with_trust(tmp_path: Path, own_code: str) -> None:
    model = models.build(f"{own_code}:make", size=5)
    save(model, tmp_path / "m")
    del sys.modules[own_code]
    trace = tmp_path / "code" / "trace"
    trace.unlink()
    with pytest.raises(InputError, match=r"names the code users_own:make .* trust=True"):
        load(tmp_path / "m")
    load(tmp_path / "m", into=nn.Linear(5, 2))
    assert not trace.exists()
    assert same(state(load(tmp_path / "m", trust=True)), state(model))
    assert trace.exists()


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 6)),
            "has another kind of 3.bias",
        ),
        (nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), "has the foreign 3.bias, 3.weight"),
        (nn.Sequential(*net(), nn.Linear(5, 5)), "lacks 4.bias, 4.weight"),
        (nn.Linear(3, 3), "lacks bias, weight"),
    ],
)
def test_another_model_is_refused_and_untouched(tmp_path: Path, other: nn.Module, sentence: str) -> None:
    save(net(), tmp_path / "m")
    before = state(other)
    with pytest.raises(ModelError, match=f"{sentence}.*it is a checkpoint of another model than") as caught:
        load(tmp_path / "m", into=other)
    assert same(state(other), before)
    assert "\n" not in str(caught.value)


class WithExtra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}

    def set_extra_state(self, state: object) -> None:
        pass


def with_sparse() -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.eye(3).to_sparse())
    return model


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (WithExtra(2, 2), "_extra_state"),
        (nn.LazyLinear(3), "weight"),
        (nn.Linear(2, 2, device="meta"), "weight"),
        (with_sparse(), "table"),
    ],
    ids=["extra", "lazy", "meta", "sparse"],
)
def test_state_that_is_no_dense_tensor_is_refused(tmp_path: Path, model: nn.Module, name: str) -> None:
    with pytest.raises(ModelError, match=f"^{name} of .* is no dense tensor with values"):
        save(model, tmp_path / "m")
    assert names(tmp_path) == []
    save(nn.Linear(2, 2), tmp_path / "m")
    with pytest.raises(ModelError, match=f"^{name} of .* is no dense tensor with values"):
        load(tmp_path / "m", into=model)


@pytest.mark.parametrize("about", [{"a": {1, 2}}, {"a": object()}, {(1, 2): 3}, {"a": torch.ones(2)}])
def test_a_description_that_is_no_json_is_refused(tmp_path: Path, about: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^Cannot write .*: its description is not JSON \(.*\)\.$"):
        save(net(), tmp_path / "m", about=about)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "model", [None, nn.Linear, nn.Linear(2, 2).state_dict()], ids=["nothing", "a class", "a state dict"]
)
def test_what_is_no_model_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(InputError, match=r"A model is a torch\.nn\.Module"):
        save(model, tmp_path / "m")
    assert names(tmp_path) == []
    save(nn.Linear(2, 2), tmp_path / "m")
    if model is not None:
        with pytest.raises(InputError, match=r"A model is a torch\.nn\.Module"):
            load(tmp_path / "m", into=model)


def test_tensors_of_kinds_that_safetensors_lacks_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("table", torch.ones(2, dtype=torch.complex128))
    with pytest.raises(InputError, match=r"safetensors holds no tensors of torch\.complex128"):
        save(model, tmp_path / "m")
    assert names(tmp_path) == []


def test_a_model_that_takes_no_values_is_refused(tmp_path: Path) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(1, 4).expand(3, 4))
    save(model, tmp_path / "m")
    with pytest.raises(ModelError, match=r"^Module does not take .*m \("):
        load(tmp_path / "m", into=model)


READERS: dict[str, Callable[[Path], object]] = {
    "load": lambda path: load(path, into=net()),
    "by name": load,
    "masks": load_masks,
    "tree": read_tree,
}
reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@reader
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "truncated or corrupt"),
        (b"hello", "truncated or corrupt"),
        (b"\xff" * 100, "truncated or corrupt"),
        (struct.pack("<Q", 2**60) + b"{}", "truncated or corrupt"),
        (struct.pack("<Q", 2) + b"{}", "it is a safetensors file, but no (model|tree) of secateur's"),
        (b"PK\x03\x04" + b"x" * 100, "looks like a PyTorch pickle"),
        (b"\x80\x02}q\x00.", "looks like a PyTorch pickle"),
    ],
)
def test_foreign_bytes_are_refused(
    tmp_path: Path, read: Callable[[Path], object], content: bytes, sentence: str
) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(StoreError, match=f"^Cannot read .*: .*{sentence}") as caught:
        read(tmp_path / "m")
    assert "\n" not in str(caught.value)


@reader
def test_foreign_files_are_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    torch.save(net().state_dict(), tmp_path / "pickle.pt")
    with pytest.raises(StoreError, match="looks like a PyTorch pickle, which secateur import can take in"):
        read(tmp_path / "pickle.pt")
    for metadata in (None, {"format": "pt"}, {"secateur": "[]"}, {"secateur": "{"}, {"secateur": "3"}):
        save_file(net().state_dict(), tmp_path / "plain.safetensors", metadata=metadata)
        with pytest.raises(StoreError, match=r"^Cannot read .*plain\.safetensors: "):
            read(tmp_path / "plain.safetensors")
    with pytest.raises(StoreError, match="there is no such file"):
        read(tmp_path / "gone")
    with pytest.raises(StoreError, match="it is a folder, a file was expected"):
        read(tmp_path)


def test_models_and_trees_are_not_mixed_up(tmp_path: Path) -> None:
    save(net(), tmp_path / "model")
    write_tree(tmp_path / "tree", {"a": torch.ones(2)})
    with pytest.raises(StoreError, match="but no tree of secateur's"):
        read_tree(tmp_path / "model")
    with pytest.raises(StoreError, match="but no model of secateur's"):
        load(tmp_path / "tree", into=net())


def test_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "CONTAINER_VERSION", 2)
    save(net(), tmp_path / "m")
    monkeypatch.undo()
    with pytest.raises(StoreError, match="a newer secateur wrote it; update with pip install -U secateur"):
        load(tmp_path / "m", into=net())


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    save(prune(model, amount=0.5), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    other = nn.Linear(3, 2)
    before = state(other)
    for length in range(len(whole)):
        (tmp_path / "part").write_bytes(whole[:length])
        with pytest.raises(StoreError, match=r"^Cannot read .*part: "):
            load(tmp_path / "part", into=other)
    assert same(state(other), before)
    load(tmp_path / "whole", into=other)
    assert not same(state(other), before)


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=SLOW_FOLDER)
def test_damaged_bytes_never_lead_to_anything_but_an_error_of_ours(
    tmp_path: Path, data: st.DataObject
) -> None:
    whole = whole_file(tmp_path)
    start = struct.unpack("<Q", whole[:8])[0] + 8
    position = data.draw(st.integers(0, start - 1))
    damaged = bytearray(whole)
    damaged[position : position + data.draw(st.integers(1, 3))] = data.draw(st.binary(max_size=3))
    (tmp_path / "part").write_bytes(damaged)
    other = nn.Linear(3, 2)
    before = state(other)
    if complaint(lambda: load(tmp_path / "part", into=other)):
        assert same(state(other), before)


def whole_file(folder: Path) -> bytes:
    if not (folder / "whole").exists():
        torch.manual_seed(0)
        save(prune(nn.Linear(3, 2), amount=0.5), folder / "whole", about={"a": 1})
    return (folder / "whole").read_bytes()


JUNK = [
    None,
    3,
    -1,
    2.5,
    "x",
    True,
    [],
    [1],
    {},
    {"weight": "x"},
    {"weight": [3]},
    {"weight": [-2, -3]},
    {"weight": None},
]


@pytest.mark.parametrize("key", ["about", "masks", "tied", "model"])
@pytest.mark.parametrize("junk", JUNK, ids=str)
def test_a_header_of_wrong_types_is_refused(tmp_path: Path, key: str, junk: Any) -> None:
    header: dict[str, Any] = {"about": {}, "masks": {"weight": [2, 3]}, "tied": {}, "model": None}
    tensors = {
        "weight": torch.rand(2, 3),
        "bias": torch.rand(2),
        "mask:weight": torch.zeros(1, dtype=torch.uint8),
    }
    container.write_container(tmp_path / "good", "model", tensors, header)
    load(tmp_path / "good", into=nn.Linear(3, 2))
    lacking = {name: value for name, value in header.items() if name != key}
    fine = (
        key == "model"
        or (key == "tied" and junk == {})
        or (key == "about" and (isinstance(junk, dict) or junk == []))
    )
    for description, accepted in (({**header, key: junk}, fine), (lacking, False), (junk, False)):
        container.write_container(tmp_path / "m", "model", tensors, description)
        model = nn.Linear(3, 2)
        before = state(model)
        sentence = complaint(partial(load, tmp_path / "m", into=model))
        assert (sentence is None) == accepted
        assert accepted or same(state(model), before)
        assert complaint(partial(load, tmp_path / "m"))  # no model is built of this


@pytest.mark.parametrize(
    "spec",
    [
        {"name": 3},
        {"args": {}},
        {"name": "lenet5", "args": 3},
        {"name": "lenet5", "args": {"name": "x"}},
        {"name": "lenet5", "num_classes": "many"},
        {"name": "lenet5", "num_classes": -1},
        {"name": "lenet5", "input_shape": 28},
        {"name": "lenet5", "input_shape": "28"},
        {"name": "lenet5", "input_shape": [[1], 28, 28]},
        {"name": "lenet5", "args": {"colour": "red"}},
        {"name": "lenet6"},
        {"name": ""},
        {"name": ":"},
        {"name": "torchvision:nothing", "args": {"weights": "DEFAULT"}},
        {"name": "timm:nothing"},
        {"name": "hf:/nowhere/at/all"},
        {"name": "os:system", "args": {"command": "false"}},
        "lenet5",
        ["lenet5"],
        3,
    ],
    ids=str,
)
def test_a_model_description_that_makes_no_sense_is_refused(tmp_path: Path, spec: Any) -> None:
    model = models.build("lenet5")
    model.secateur_spec = spec
    save(model, tmp_path / "m")
    assert complaint(lambda: load(tmp_path / "m"))
    load(tmp_path / "m", into=models.build("lenet5"))


# --- atomic ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["save_file", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    save(net(), tmp_path / "m")
    before = (tmp_path / "m").read_bytes()

    def fill(tensors: object, path: Any, *_: object, **__: object) -> None:
        if function == "save_file":
            Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((container, "save_file") if function == "save_file" else ("os.replace",)), fill)
    for write in (
        lambda: save(net(1), tmp_path / "m"),
        lambda: write_tree(tmp_path / "m", {"a": torch.ones(3)}),
    ):
        with pytest.raises(
            StoreError, match="No space left on device; free some space or choose another path"
        ):
            write()
    assert (tmp_path / "m").read_bytes() == before
    assert names(tmp_path) == ["m"]


def test_saving_where_a_folder_or_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="a folder of that name is in the way"):
        save(net(), tmp_path)
    with pytest.raises(StoreError, match="a file is in the way"):
        save(net(), tmp_path / "file" / "m")


def test_a_file_may_be_replaced_by_what_is_read_from_it(tmp_path: Path) -> None:
    write_tree(tmp_path / "t", {"a": torch.arange(5), "b": torch.ones(3)})
    for _ in range(3):
        write_tree(tmp_path / "t", read_tree(tmp_path / "t"))
    assert torch.equal(read_tree(tmp_path / "t")["a"], torch.arange(5))


# --- trees -------------------------------------------------------------------------------------------------


def tensors() -> st.SearchStrategy[Tensor]:
    dtypes = [torch.bool, torch.uint8, torch.int32, torch.int64, *DTYPES, torch.complex64]
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return st.builds(
        lambda shape, dtype, seed: torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).to(
            dtype
        ),
        shapes,
        st.sampled_from(dtypes),
        st.integers(0, 99),
    )


keys = st.text(max_size=4) | st.integers() | st.none() | st.booleans() | st.floats(allow_nan=False)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | tensors()
nests = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


def equal(one: Any, other: Any) -> bool:
    """Whether two nests agree in values and types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return [(type(key), key) for key in one] == [(type(key), key) for key in other] and all(
            equal(one[key], other[key]) for key in one
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other or (one != one and other != other)  # NaN


@given(tree=st.dictionaries(keys, nests, max_size=4))
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW_FOLDER)
def test_a_tree_comes_back(tmp_path: Path, tree: dict[Any, Any]) -> None:
    write_tree(tmp_path / "t", tree)
    assert equal(read_tree(tmp_path / "t"), tree)


@pytest.mark.parametrize("odd", ["", "__metadata__", "\ud800", "0", "a.b", "new\nline"])
def test_tensors_in_a_tree_are_called_by_their_keys_where_that_can_be(tmp_path: Path, odd: str) -> None:
    tree = {"a": {"b": torch.zeros(1), "c": [torch.ones(1)]}, odd: torch.full((1,), 2.0)}
    write_tree(tmp_path / "t", tree)
    assert equal(read_tree(tmp_path / "t"), tree)
    names = load_file(tmp_path / "t").keys()
    assert {"a.b", "a.c.0"} <= names
    assert len(names) == 3


def test_tensors_in_a_tree_may_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    tree = {
        "one": whole,
        "two": whole,
        "part": [whole[3:7], whole.reshape(3, 4).t()],
        "parameter": nn.Parameter(whole),
    }
    write_tree(tmp_path / "t", tree)
    back = read_tree(tmp_path / "t")
    assert torch.equal(back["one"], whole)
    assert torch.equal(back["two"], whole)
    assert torch.equal(back["part"][0], whole[3:7])
    assert torch.equal(back["part"][1], whole.reshape(3, 4).t())
    assert torch.equal(back["parameter"], whole)
    back["one"].zero_()
    assert torch.equal(back["two"], whole)


def test_numbers_that_json_lacks_and_tuples(tmp_path: Path) -> None:
    write_tree(tmp_path / "t", {"best": math.inf, "worst": -math.inf, "loss": math.nan, "shape": (1, 2)})
    back = read_tree(tmp_path / "t")
    assert (back["best"], back["worst"], back["shape"]) == (math.inf, -math.inf, [1, 2])
    assert math.isnan(back["loss"])


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_training_state_comes_back(tmp_path: Path, optimizer: type[torch.optim.Optimizer]) -> None:
    model = net()
    stepper = optimizer(
        model.parameters(), lr=0.01, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {})
    )
    for _ in range(2):
        model(torch.randn(4, 2, 4, 4)).sum().backward()
        stepper.step()
    write_tree(tmp_path / "t", {"optimizer": stepper.state_dict(), "model": model.state_dict()})
    back = read_tree(tmp_path / "t")
    fresh = optimizer(net().parameters(), lr=1.0)
    fresh.load_state_dict(back["optimizer"])
    for index, entries in stepper.state_dict()["state"].items():
        for key, value in entries.items():
            kept = fresh.state_dict()["state"][index][key]
            assert torch.equal(kept, value) if isinstance(value, Tensor) else kept == value
    assert fresh.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        object(),
        b"bytes",
        1 + 2j,
        Path("x"),
        {(1, 2): 3},
        torch.eye(2).to_sparse(),
        torch.ones(2, device="meta"),
    ],
)
def test_what_a_tree_cannot_hold_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(
        InputError,
        match=r"^Cannot store a .*: only numbers, text, lists, dicts and dense tensors are kept\.$",
    ):
        write_tree(tmp_path / "t", {"deep": [{"down": value}]})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "skeleton",
    [
        None,
        3,
        "x",
        [],
        {},
        {"value": 3},
        {"list": 3},
        {"tensor": "9"},
        {"tensor": []},
        {"dict": 3},
        {"dict": [3]},
        {"dict": [[1]]},
        {"dict": [[[], {"value": 1}]]},
        {"dict": [["a", 3]]},
        {"dict": [["a", {}]]},
        {"dict": [["a", {"tensor": None}]]},
    ],
    ids=str,
)
def test_a_tree_with_a_skeleton_that_makes_no_sense_is_refused(tmp_path: Path, skeleton: Any) -> None:
    container.write_container(tmp_path / "t", "tree", {"0": torch.ones(2)}, skeleton)
    with pytest.raises(StoreError, match="its description does not fit its tensors"):
        read_tree(tmp_path / "t")


def in_itself() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    tree["down"] = tree
    return tree


def in_lists(depth: int) -> Any:
    tree: Any = 1
    for _ in range(depth):
        tree = [tree]
    return tree


@pytest.mark.parametrize("tree", [in_itself(), {"down": in_lists(10**4)}], ids=["knot", "deep"])
def test_a_tree_too_deep_or_in_itself_is_refused(tmp_path: Path, tree: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="its content is nested too deeply, or in itself"):
        write_tree(tmp_path / "t", tree)
