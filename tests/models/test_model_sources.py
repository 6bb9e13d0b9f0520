"""Models of torchvision, timm and transformers: built by name, fitted to the data, never unpickled."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur import models
from secateur.core.errors import InputError, MissingExtraError, ModelError
from secateur.models.sources import weights_only


class Malicious:
    """Unpickled, it would make a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": Malicious(tmp_path / "was-here")}, path)
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny text encoder as transformers does, and return its folder."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_torchvision_models_take_classes_and_arguments() -> None:
    with torch.device("meta"):
        net = models.build("torchvision:vit_b_16", num_classes=5, input_shape=(3, 32, 32), image_size=32)
        assert net(torch.empty(2, 3, 32, 32)).shape == (2, 5)
        assert models.build("torchvision:resnet18").fc.out_features == 1000


def test_torchvision_backbones_are_not_fetched() -> None:
    with torch.device("meta"):
        assert models.build("torchvision:fcn_resnet50", num_classes=4).classifier[-1].out_channels == 4


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnt18", {}, "did you mean resnet18"),
        ("", {}, "write torchvision:NAME"),
        ("quantized_resnet18", {}, "no torchvision model named 'quantized_resnet18'"),
        ("resnet18", {"depth": 3}, "no argument named 'depth'"),
        ("resnet18", {"weights": "BEST"}, "DEFAULT"),
        ("resnet18", {"input_shape": (1, 28, 28)}, "3 channels, not 1"),
        ("raft_small", {"num_classes": 3}, "no argument named 'num_classes'"),
    ],
)
def test_torchvision_refuses_in_one_sentence(name: str, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        models.build(f"torchvision:{name}", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("lenet5", {"a": 1}, {"a": 1}),
        ("mynets:net", {"weights": "DEFAULT"}, {"weights": "DEFAULT"}),
        ("torchvision:resnet18", {"weights": "DEFAULT", "progress": False}, {"progress": False}),
        ("torchvision:vit_b_16", {"weights": "IMAGENET1K_SWAG_E2E_V1"}, {"image_size": 384}),
        (
            "torchvision:inception_v3",
            {"weights": "DEFAULT"},
            {"transform_input": True, "init_weights": False},
        ),
        (
            "torchvision:inception_v3",
            {"weights": "DEFAULT", "transform_input": False},
            {"transform_input": False, "init_weights": False},
        ),
        ("torchvision:googlenet", {}, {}),
        ("torchvision:fcn_resnet50", {"weights": "DEFAULT"}, {"aux_loss": True}),
        ("timm:resnet18", {"pretrained": True, "checkpoint_path": "a.pth"}, {"pretrained": False}),
        ("hf:folder", {"task": "base"}, {"task": "base", "pretrained": False}),
    ],
)
def test_the_architecture_without_its_pretraining(name: str, args: dict, expected: dict) -> None:
    given = dict(args)
    assert models.without_pretraining(name, args) == expected
    assert args == given


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "fcn_resnet50", "vit_b_16"])
def test_without_pretraining_is_what_the_builder_makes_of_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models._api import WeightsEnum

    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *args, **options: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *args, **options: None)
    with torch.device("meta"):
        trained = models.build(f"torchvision:{name}", weights="DEFAULT")
        again = models.build(
            f"torchvision:{name}", **models.without_pretraining(f"torchvision:{name}", {"weights": "DEFAULT"})
        )
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (trained, again)]
    assert shapes[0] == shapes[1]
    assert getattr(trained, "transform_input", None) == getattr(again, "transform_input", None)


def test_no_library_unpickles_code_while_a_source_builds(evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    with weights_only(), pytest.raises(Exception, match="Weights only load failed"):
        torch.load(evil, weights_only=False)
    assert not (evil.parent / "was-here").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_timm_fits_the_model_to_the_data(evil: Path) -> None:
    pytest.importorskip("timm")
    net = models.build("timm:test_resnet", num_classes=3, input_shape=(1, 32, 32))
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 3)
    with pytest.raises(InputError, match=r"no timm model named 'resnt18'.*resnet18"):
        models.build("timm:resnt18")
    with pytest.raises(InputError, match="no argument named 'depht'"):
        models.build("timm:test_resnet", depht=2)
    with pytest.raises(ModelError, match="timm:test_resnet can't be built"):
        models.build("timm:test_resnet", checkpoint_path=str(evil))
    assert not (evil.parent / "was-here").exists()


def test_transformers_load_a_folder_and_make_the_head_that_is_asked_for(bert: Path) -> None:
    net = models.build(f"hf:{bert}", num_classes=5)
    assert net(torch.zeros(2, 4, dtype=torch.long)).logits.shape == (2, 5)
    base = models.build(f"hf:{bert}", task="base")
    again = models.build(f"hf:{bert}", task="base")
    fresh = models.build(f"hf:{bert}", task="base", pretrained=False)
    word = "embeddings.word_embeddings.weight"
    assert torch.equal(base.get_parameter(word), again.get_parameter(word))
    assert torch.equal(base.get_parameter(word), net.get_parameter(f"bert.{word}"))
    assert not torch.equal(base.get_parameter(word), fresh.get_parameter(word))
    deeper = models.build(f"hf:{bert}", task="base", pretrained=False, num_hidden_layers=3)
    assert len(deeper.encoder.layer) == 3


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"task": "image"}, InputError, "image-classification"),
        ({"num_hidden_layer": 2}, InputError, "num_hidden_layers"),
        ({"trust_remote_code": True}, InputError, "trust_remote_code"),
        ({"task": "image-classification"}, ModelError, "can't be built"),
        ({"dtype": "nonsense"}, ModelError, "can't be built"),
    ],
)
def test_transformers_refuse_in_one_sentence(
    bert: Path, options: dict, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        models.build(f"hf:{bert}", **options)
    assert "\n" not in str(caught.value)


def test_transformers_say_what_is_missing(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="no folder"):
        models.build(f"hf:{tmp_path}/absent")
    with pytest.raises(ModelError, match="no folder"):
        models.build("hf:./absent")
    with pytest.raises(ModelError, match=r"config\.json"):
        models.build(f"hf:{tmp_path}")
    with pytest.raises(ModelError, match="the id of one on the hub"):
        models.build("hf:nobody/has-this")
    (tmp_path / "config.json").write_text((bert / "config.json").read_text())
    torch.save({"state_dict": Malicious(tmp_path / "was-here")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        models.build(f"hf:{tmp_path}", task="base")
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    ("name", "package"), [("timm:resnet18", "timm"), ("hf:bert-base-uncased", "transformers")]
)
def test_a_missing_library_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"secateur\[{package}\]"):
        models.build(name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty cache of torch's hub, in a process that reaches no network."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def unreachable(*args: object, **options: object) -> None:
    from urllib.error import URLError

    raise URLError("no network")


def put(hub: Path, name: str, classes: int = 1000, **arguments: object) -> dict[str, torch.Tensor]:
    """Put a state dict of the model into the cache, under the name of its default weights, and return it."""
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(7)
    state = get_model(name, num_classes=classes, **arguments).state_dict()
    torch.save(state, hub / Path(get_model_weights(name)["DEFAULT"].url).name)
    return state


@pytest.mark.parametrize(
    ("name", "head"),
    {
        "resnet18": {"fc.weight", "fc.bias"},
        "squeezenet1_1": {"classifier.1.weight", "classifier.1.bias"},
        "mobilenet_v3_small": {"classifier.3.weight", "classifier.3.bias"},
        "shufflenet_v2_x0_5": {"fc.weight", "fc.bias"},
        "densenet121": {"classifier.weight", "classifier.bias"},
    }.items(),
)
def test_torchvision_weights_with_a_new_head(hub: Path, name: str, head: set[str]) -> None:
    trained = put(hub, name)
    torch.manual_seed(0)
    net = models.build(f"torchvision:{name}", weights="DEFAULT", num_classes=10)
    own = net.state_dict()
    assert {key for key in own if own[key].shape != trained[key].shape} == head
    assert all(torch.equal(own[key], trained[key]) for key in own.keys() - head)
    torch.manual_seed(0)
    again = models.build(f"torchvision:{name}", weights="DEFAULT", num_classes=10).state_dict()
    assert all(torch.equal(again[key], own[key]) for key in head)
    assert net.training


def test_torchvision_weights_of_the_same_classes_keep_their_head(hub: Path) -> None:
    trained = put(hub, "resnet18")
    for classes in (None, 1000):
        own = models.build("torchvision:resnet18", weights="DEFAULT", num_classes=classes).state_dict()
        assert all(torch.equal(own[key], trained[key]) for key in own)


def test_names_of_densenet_in_old_files(hub: Path) -> None:
    trained = put(hub, "densenet121")
    (path,) = hub.iterdir()
    torch.save(
        {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): value for key, value in trained.items()}, path
    )
    own = models.build("torchvision:densenet121", weights="DEFAULT", num_classes=3).state_dict()
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(own[key], trained[key])


def test_torchvision_weights_that_are_nowhere(hub: Path) -> None:
    for classes in (10, 1000):
        with pytest.raises(
            ModelError, match=r"resnet18-f37072fd\.pth .* neither in .*checkpoints nor"
        ) as caught:
            models.build("torchvision:resnet18", weights="DEFAULT", num_classes=classes)
        assert "\n" not in str(caught.value)


def test_torchvision_weights_of_another_model(hub: Path) -> None:
    torch.save(put(hub, "resnet34"), hub / "resnet18-f37072fd.pth")
    with pytest.raises(ModelError, match="don't fit it"):
        models.build("torchvision:resnet18", weights="DEFAULT", num_classes=10)


def test_torchvision_weights_run_no_code(hub: Path, evil: Path, tmp_path: Path) -> None:
    (hub / "resnet18-f37072fd.pth").write_bytes(evil.read_bytes())
    with pytest.raises(ModelError):
        models.build("torchvision:resnet18", weights="DEFAULT", num_classes=10)
    assert not (tmp_path / "was-here").exists()
