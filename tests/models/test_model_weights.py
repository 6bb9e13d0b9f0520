"""Foreign checkpoints: every common form loads, everything else is refused and changes nothing."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from secateur import models
from secateur.core.errors import ModelError, SecateurError, StoreError

State = dict[str, Tensor]


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("convnet")


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def copied(model: nn.Module) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def refused(model: nn.Module, path: Path, error: type[SecateurError]) -> str:
    """Load `path`, see it refused with the model untouched, and return the sentence."""
    before = copied(model)
    with pytest.raises(error) as caught:
        models.load_weights(model, path)
    assert same(before, copied(model))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    return sentence


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("nesting", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("suffix", [".pt", ".th", ".safetensors"])
def test_common_forms_load(prefix: str, nesting: str | None, suffix: str, tmp_path: Path) -> None:
    source, target = net(1), net(2)
    state = {prefix + key: value for key, value in source.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({nesting: state, "epoch": 3, "best": 0.9} if nesting else state, path)
    models.load_weights(target, path)
    assert same(copied(source), copied(target))


def test_the_old_file_format_and_half_precision_load(tmp_path: Path) -> None:
    source, target = net(1).half(), net(2)
    torch.save(source.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    models.load_weights(target, tmp_path / "old.pth")
    assert all(value.dtype == torch.float32 for value in target.parameters())
    assert torch.equal(target[0].weight.half(), source[0].weight)


def test_a_wrapped_model_keeps_its_prefix(tmp_path: Path) -> None:
    source, target = nn.Sequential(), nn.Sequential()
    source.add_module("module", net(1))
    target.add_module("module", net(2))
    torch.save(source.state_dict(), tmp_path / "wrapped.pt")
    models.load_weights(target, tmp_path / "wrapped.pt")
    assert same(copied(source), copied(target))


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    source, target = net(1), net(2)
    state = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pt")
    models.load_weights(target, tmp_path / "old.pt")
    assert torch.equal(source[0].weight, target[0].weight)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_a_shared_tensor_needs_one_name_only(tmp_path: Path) -> None:
    target = Tied()
    torch.save({"embedding.weight": torch.ones(5, 3)}, tmp_path / "tied.pt")
    models.load_weights(target, tmp_path / "tied.pt")
    assert torch.equal(target.head.weight, torch.ones(5, 3))


def without(state: State, key: str) -> State:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda state: without(state, "0.weight"), "0.weight is missing"),
        (lambda state: without(state, "1.running_var"), "1.running_var is missing"),
        (lambda state: state | {"extra": torch.ones(1)}, "extra is unknown"),
        (
            lambda state: state | {"0.weight": torch.ones(16, 3, 3, 3)},
            "0.weight is 16×3×3×3 instead of 16×1×3×3",
        ),
        (lambda state: state | {"1.bias": torch.tensor(1.0)}, "1.bias is a scalar instead of 16"),
        (lambda state: state | {"1.bias": torch.full((16,), float("nan"))}, "NaN or infinity in 1.bias"),
        (
            lambda state: state | {"1.running_var": torch.full((16,), torch.inf)},
            "NaN or infinity in 1.running_var",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    spoil: Callable[[State], State], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "spoilt.pt"
    torch.save(spoil(net(1).state_dict()), path)
    assert says in refused(net(2), path, ModelError)


def test_another_model_is_refused_with_three_names(tmp_path: Path) -> None:
    path = tmp_path / "lenet.safetensors"
    safetensors.torch.save_file(models.build("lenet5").state_dict(), path)
    sentence = refused(net(2), path, ModelError)
    assert "checkpoint of another model" in sentence
    assert sentence.count("is missing") + sentence.count("is unknown") == 3
    assert "more)" in sentence


class Malicious:
    """Unpickled, it would make a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "was-here"
    content = {"state_dict": net(1).state_dict(), "args": Malicious(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert "Python objects" in refused(net(2), path, StoreError)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file would not have run code at all"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_and_a_whole_module_are_refused(tmp_path: Path) -> None:
    bare, marker, whole = tmp_path / "bare.pkl", tmp_path / "was-here", tmp_path / "whole.pt"
    bare.write_bytes(pickle.dumps(Malicious(marker)))
    torch.save(net(1), whole)
    refused(net(2), bare, StoreError)
    assert "state_dict()" in refused(net(2), whole, StoreError)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pt", ".old", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.02, 0.5, 0.99])
@pytest.mark.filterwarnings("ignore")
def test_truncated_files_are_refused(suffix: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(net(1).state_dict(), path)
    else:
        torch.save(net(1).state_dict(), path, _use_new_zipfile_serialization=suffix == ".pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert "truncated" in refused(net(2), path, StoreError)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [1, 2],
        {"epoch": 3},
        {"state_dict": {}},
        {"a": torch.ones(2).to_sparse()},
        {"a": torch.ones(2).to("meta")},
    ],
    ids=["empty", "list", "no weights", "nested empty", "sparse", "meta"],
)
@pytest.mark.filterwarnings("ignore")
def test_files_without_a_state_dict_are_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    assert "no state dict" in refused(net(2), path, StoreError)


def test_what_is_no_checkpoint_at_all_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.pt"
    text.write_text("hello\n")
    refused(net(2), text, StoreError)
    assert "no such file" in refused(net(2), tmp_path / "absent.pt", StoreError)
    assert "a folder" in refused(net(2), tmp_path, StoreError)


MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
CIFAR_TEST = "cifar10/test-00000-of-00001.parquet"


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the classes of images, uint8 [N, 3, 32, 32], normalised as for ImageNet."""
    with torch.no_grad():
        return model.eval()((images / 255 - MEAN[:, None, None]) / STD[:, None, None]).argmax(1)


def share_right(model: nn.Module, root: Path) -> float:
    """Return the accuracy on the first 500 test images of the CIFAR-10 below `root`."""
    table = pq.read_table(root / CIFAR_TEST).slice(0, 500)
    pixels = [np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["img"].to_pylist()]
    guesses = answers(model, torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
    return float((guesses == torch.tensor(table["label"].to_pylist())).float().mean())


def png(image: Tensor) -> dict[str, bytes]:
    """Return an image, uint8 [3, H, W], as a cell of a parquet file."""
    stream = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "PNG")
    return {"bytes": stream.getvalue()}


def test_a_resnet_in_the_form_of_the_published_ones_loads_and_classifies(tmp_path: Path) -> None:
    """Wrapped in DataParallel, of a torch that did not count batches yet; it answered three quarters of the labels."""
    torch.manual_seed(0)
    source, target = models.build("resnet20").eval(), models.build("resnet20")
    state = {f"module.{key}": value for key, value in source.state_dict().items() if "batches" not in key}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "resnet20.th")
    models.load_weights(target, tmp_path / "resnet20.th")
    pixels = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    labels = answers(source, pixels)
    labels[:5] = (labels[:5] + 1) % 10
    (tmp_path / CIFAR_TEST).parent.mkdir()
    table = pa.table({"img": [png(image) for image in pixels], "label": labels.tolist()})
    pq.write_table(table, tmp_path / CIFAR_TEST)
    assert share_right(target, tmp_path) == pytest.approx(15 / 20)


@pytest.mark.parametrize(
    ("name", "file", "accuracy"),
    [
        pytest.param(name, file, accuracy, marks=pytest.mark.needs_data("cifar10", f"weights/cifar10/{file}"))
        for name, file, accuracy in (
            ("resnet20", "resnet20-12fca82f.th", 0.9173),
            ("resnet56", "resnet56-4bfd9763.th", 0.9339),
        )
    ],
)
def test_trained_cifar_resnets_load_and_classify(name: str, file: str, accuracy: float) -> None:
    root, model = Path(os.environ["SECATEUR_DATA"]), models.build(name)
    models.load_weights(model, root / "weights" / "cifar10" / file)
    assert share_right(model, root) == pytest.approx(accuracy, abs=0.03)  # 2.5 standard errors of 500 images


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save({name: value.to(dtype) for name, value in before.items()}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="and the model as float32"):
        models.load_weights(model, tmp_path / "other.pt")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_too_large_for_the_model_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    torch.save(
        {name: value.double() + 1e300 for name, value in model.state_dict().items()}, tmp_path / "big.pt"
    )
    with pytest.raises(ModelError, match="become infinite"):
        models.load_weights(model, tmp_path / "big.pt")
