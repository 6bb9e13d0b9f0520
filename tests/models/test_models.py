"""Architectures by name: what every registered one does, and what the single families promise."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur import models
from secateur.core.errors import InputError, ModelError
from secateur.models.resnet_cifar import ZeroPad

EVERY = sorted(models.MODELS)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_forward_on_the_default_input(name: str) -> None:
    net = models.build(name)
    logits = net(torch.randn(2, *models.MODELS[name].input_shape))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()
    assert net.training
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_other_classes_channels_and_sizes_on_the_meta_device(name: str) -> None:
    _, height, width = models.MODELS[name].input_shape
    shape = (5, height + 4, width + 8)
    with torch.device("meta"):
        net = models.build(name, num_classes=7, input_shape=shape)
        assert net(torch.empty(2, *shape)).shape == (2, 7)
    assert all(parameter.is_meta for parameter in net.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_the_seed_decides_the_weights(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([parameter.detach().flatten() for parameter in models.build(name).parameters()])

    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


@pytest.mark.parametrize("name", EVERY)
def test_initial_convolutions_have_the_variance_of_kaiming(name: str) -> None:
    torch.manual_seed(0)
    for part in models.build(name).modules():
        if isinstance(part, nn.Conv2d) and part.weight.numel() > 10_000:
            fan_out = part.out_channels * part.kernel_size[0] * part.kernel_size[1]
            assert part.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("lenet300", 266_610),
        ("lenet5", 61_706),
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet56", 853_018),
        ("resnet110", 1_727_962),
        ("vgg11_bn", 9_231_114),
        ("vgg13_bn", 9_416_010),
        ("vgg16_bn", 14_728_266),
        ("vgg19_bn", 20_040_522),
        ("resnet18", 11_173_962),
        ("resnet50", 23_520_842),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, published: int) -> None:
    assert next(row.parameters for row in models.names() if row.name == name) == published


@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith("vgg")])
def test_vgg_features_are_named_and_shaped_as_in_torchvision(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = models.build(name), models.build(f"torchvision:{name}")
    shapes = [
        {key: value.shape for key, value in net.get_submodule("features").state_dict().items()}
        for net in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]


def test_vgg_width_multiplies_the_channels() -> None:
    with torch.device("meta"):
        half = models.build("vgg16_bn", width=0.5)
    outputs = [part.out_channels for part in half.modules() if isinstance(part, nn.Conv2d)]
    assert outputs == [32, 32, 64, 64, 128, 128, 128, *[256] * 6]


@pytest.mark.parametrize("width", [0, -1.0, float("nan")])
def test_vgg_refuses_a_width_without_channels(width: float) -> None:
    with pytest.raises(InputError, match="width of vgg11"):
        models.build("vgg11", width=width)


def test_zero_pad_shortcut_subsamples_and_centres() -> None:
    features = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    widened = ZeroPad(stride=2, pad=2)(features)
    expected = torch.zeros(2, 7, 3, 3, dtype=torch.float64)
    for channel in range(3):
        for row in range(3):
            for column in range(3):
                expected[:, 2 + channel, row, column] = features[:, channel, 2 * row, 2 * column]
    assert torch.equal(widened, expected)


def test_lenet5_gives_28_and_32_pixels_the_same_layers() -> None:
    small, large = (models.build("lenet5", input_shape=(1, side, side)) for side in (28, 32))
    assert [p.shape for p in small.parameters()] == [p.shape for p in large.parameters()]
    assert small.conv1.padding == (2, 2)
    assert large.conv1.padding == (0, 0)


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_lenet5_takes_any_image_of_12_pixels_or_says_so(height: int, width: int) -> None:
    with torch.device("meta"):
        if min(height, width) < 12:
            with pytest.raises(InputError, match="12×12"):
                models.build("lenet5", input_shape=(1, height, width))
        else:
            net = models.build("lenet5", input_shape=(1, height, width))
            assert net(torch.empty(3, 1, height, width)).shape == (3, 10)


def test_lenet300_takes_any_shape() -> None:
    assert models.build("lenet300", input_shape=(20,))(torch.randn(3, 20)).shape == (3, 10)


@pytest.mark.parametrize("side", [8, 32])
def test_convnet_is_small_at_any_size(side: int) -> None:
    net = models.build("convnet", input_shape=(1, side, side))
    assert net(torch.randn(2, 1, side, side)).shape == (2, 10)
    assert 20_000 < count(net) < 60_000


def test_convnet_learns_handwritten_digits() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1).sub(4.9).div(6.0)
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    order = torch.randperm(len(labels))
    train, test = order[:1437], order[1437:]
    net = models.build("convnet")
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=10 * 23)
    for _ in range(10):
        for batch in train[torch.randperm(len(train))].split(64):
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
    with torch.no_grad():
        right = net.eval()(images[test]).argmax(1) == labels[test]
    assert right.float().mean() > 0.97


def test_names_lists_every_model_and_source_and_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rows = models.names()
    assert torch.equal(before, torch.get_rng_state())
    assert [row.name for row in rows[: len(EVERY)]] == list(models.MODELS)
    assert {"torchvision:NAME", "timm:NAME", "hf:PATH_OR_ID", "package.module:factory"} < {
        r.name for r in rows
    }
    assert all(row.summary for row in rows)
    lenet = next(row for row in rows if row.name == "lenet5")
    assert lenet.parameters == count(models.build("lenet5"))
    assert lenet.input_shape == (1, 28, 28)


@pytest.mark.parametrize("name", EVERY)
def test_factories_can_be_called_without_arguments(name: str) -> None:
    found = inspect.signature(models.MODELS[name].factory).parameters.values()
    assert all(parameter.default is not inspect.Parameter.empty for parameter in found)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("lenet", {}, "lenet5"),
        ("mobilenet_v2", {}, "did you mean torchvision:mobilenet_v2"),
        ("", {}, "no model named ''"),
        ("lenet5", {"depth": 3}, "argument of the model lenet5 named 'depth'"),
        ("vgg11", {"widht": 2}, "did you mean width"),
        ("lenet5", {"in_channels": 3}, "input_shape"),
        ("vgg11", {"image_size": 64}, "input_shape"),
        ("lenet5", {"num_classes": 0}, "num_classes"),
        ("lenet5", {"num_classes": 2.5}, "num_classes"),
        ("lenet5", {"num_classes": True}, "num_classes"),
        ("lenet5", {"input_shape": (1, 28)}, r"\(channels, height, width\)"),
        ("lenet5", {"input_shape": (1, 28, -28)}, "input_shape"),
        ("lenet5", {"input_shape": ()}, "input_shape"),
        ("vgg16", {"input_shape": (3, 16, 16)}, "32×32"),
    ],
)
def test_senseless_requests_are_refused_in_one_sentence(name: str, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        models.build(name, **options)
    assert "\n" not in str(caught.value)


def test_a_factory_that_fails_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="vgg11 can't be built: TypeError"):
        models.build("vgg11", width="wide")


def test_the_same_name_cannot_be_registered_twice() -> None:
    with pytest.raises(InputError, match="lenet5"):
        models.model("lenet5", input_shape=(1,), summary="another")(nn.Identity)


USER = """
from torch import nn

class Net(nn.Linear):
    def __init__(self, width, num_classes=3):
        super().__init__(width, num_classes)

def flexible(**options):
    assert "num_classes" not in options, "passed on"
    return nn.Linear(1, 1)

def plain():
    from {name}_parts import part
    return part()

def wrong():
    return "a string"

def broken():
    raise RuntimeError("no luck\\nand more lines")

built = nn.Linear(1, 1)
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Write a module of the user's into the current folder and return its name."""
    name = "nets_of_a_user"
    for module in (name, f"{name}_parts", "bad_syntax_of_a_user"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / f"{name}.py").write_text(USER.replace("{name}", name))
    (tmp_path / f"{name}_parts.py").write_text(
        "from torch import nn\n\ndef part():\n    return nn.Identity()\n"
    )
    (tmp_path / "bad_syntax_of_a_user.py").write_text("import surely_not_installed\n")
    monkeypatch.chdir(tmp_path)
    return name


def test_user_factories_get_their_arguments_and_the_classes_if_they_ask(user: str) -> None:
    path = list(sys.path)
    assert models.build(f"{user}:Net", width=4, num_classes=6).weight.shape == (6, 4)
    assert models.build(f"{user}:Net", width=4).weight.shape == (3, 4)
    assert isinstance(models.build(f"{user}:flexible", num_classes=6, anything=1), nn.Linear)
    assert isinstance(models.build(f"{user}:plain", num_classes=6), nn.Identity)
    assert sys.path == path


@pytest.mark.parametrize(
    ("factory", "options", "error", "says"),
    [
        (":wrong", {}, ModelError, "returned a str"),
        (":broken", {}, ModelError, "RuntimeError: no luck.$"),
        (":Nett", {"width": 1}, InputError, "did you mean Net"),
        (":Net", {}, InputError, "needs a value for its argument 'width'"),
        (":Net", {"width": 1, "depth": 2}, InputError, "named 'depth'"),
        (":built", {}, InputError, "no function or class"),
        (":nn", {}, InputError, "no function or class"),
        (":", {}, InputError, "package.module:factory"),
        (".deeper:Net", {}, InputError, "no module 'nets_of_a_user.deeper'"),
    ],
)
def test_user_factories_fail_in_one_sentence(
    user: str, factory: str, options: dict, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        models.build(f"{user}{factory}", **options)


def test_a_missing_module_is_told_from_one_that_fails(user: str) -> None:
    with pytest.raises(InputError, match=r"no module 'torchvison'.*torchvision"):
        models.build("torchvison:resnet18")
    with pytest.raises(ModelError, match="surely_not_installed"):
        models.build("bad_syntax_of_a_user:net")


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("mynets:net", True),
        ("my.nets:net", True),
        ("lenet5", False),
        ("torchvision:resnet18", False),
        ("timm:resnet18", False),
        ("hf:some/model", False),
        ("nonsense", False),
    ],
)
def test_user_code_is_told_by_its_name(name: str, own: bool) -> None:
    assert models.is_user_code(name) is own
