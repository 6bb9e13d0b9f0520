from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.utils.flop_counter import FlopCounterMode

from secateur.core.errors import InputError, ModelError
from secateur.measure import compare_latency, cost, latency, measure, size


def lenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


IMAGE = torch.zeros(1, 1, 28, 28)
LENET_MACS = {
    "0": 28 * 28 * 6 * 25,
    "3": 10 * 10 * 16 * 6 * 25,
    "7": 400 * 120,
    "9": 120 * 84,
    "11": 84 * 10,
}


class Attention(nn.Module):
    """Plain scaled dot product attention over one sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


class Recurrent(nn.Module):
    """An LSTM whose output alone is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 7, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.lstm(x)[0]
        return output


def attention_macs(batch: int, tokens: int, width: int) -> int:
    projections = 4 * batch * tokens * width * width
    return projections + 2 * batch * tokens * tokens * width


# model, input, MACs by hand
BY_HAND: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "lenet": (lenet, (1, 1, 28, 28), sum(LENET_MACS.values())),
    "batch of 3": (lenet, (3, 1, 28, 28), 3 * sum(LENET_MACS.values())),
    "linear over tokens": (lambda: nn.Linear(4, 6), (2, 5, 4), 2 * 5 * 4 * 6),
    "grouped conv": (lambda: nn.Conv2d(8, 12, 3, groups=4, stride=2), (1, 8, 9, 9), 4 * 4 * 12 * 2 * 9),
    "depthwise conv": (lambda: nn.Conv2d(8, 8, 3, groups=8, padding=1), (1, 8, 9, 9), 81 * 8 * 9),
    "dilated conv1d": (lambda: nn.Conv1d(2, 3, 3, dilation=2), (1, 2, 10), 6 * 3 * 2 * 3),
    "transposed conv": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 25 * 4 * 6 * 4),
    "attention": (Attention, (2, 3, 6, 8), 2 * 2 * 3 * 6 * 6 * 8),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        (2, 5, 16),
        attention_macs(2, 5, 16) + 2 * (2 * 5 * 16 * 32),
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 3, enable_nested_tensor=False
        ),
        (2, 5, 16),
        3 * (attention_macs(2, 5, 16) + 2 * (2 * 5 * 16 * 32)),
    ),
    "lstm": (Recurrent, (2, 6, 5), 2 * 6 * 4 * 7 * ((5 + 7) + (7 + 7))),
    "nothing to count": (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), (2, 3), 0),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", BY_HAND)
def test_macs_by_hand(case: str, training: bool) -> None:
    make, shape, macs = BY_HAND[case]
    model = make().train(training)
    found = cost(model, torch.zeros(shape))
    assert found.macs == macs
    assert found.macs_nonzero == macs
    assert found.by_module[""] == macs
    assert sum(layer.macs for layer in found.layers) == macs
    assert sum(layer.parameters for layer in found.layers) == sum(p.numel() for p in model.parameters())
    assert all(module.training is training for module in model.modules())


def closed_form_macs(model: nn.Module, example: Tensor) -> int:
    """Independent count: out elements × inputs each reads, for every convolution and linear layer."""
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    handles = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(example)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "densenet121"])
def test_macs_of_convolutional_networks(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None)
    example = torch.zeros(1, 3, 64, 64)
    found = cost(model, example)
    assert found.macs == closed_form_macs(model, example)
    assert found.macs_nonzero == pytest.approx(found.macs, rel=1e-6)  # a random weight may be exactly zero
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    assert found.macs == counter.get_total_flops() // 2
    theirs = counter.get_flop_counts()
    root = type(model).__name__
    for module, macs in found.by_module.items():
        if macs:
            assert macs == sum(theirs[f"{root}.{module}" if module else root].values()) // 2


def test_layers() -> None:
    model = lenet()
    found = cost(model, IMAGE)
    assert {layer.name: layer.macs for layer in found.layers if layer.macs} == LENET_MACS
    assert [layer.name for layer in found.layers] == [str(index) for index in range(12)]
    first = found.layers[0]
    assert (first.kind, first.input_shape, first.output_shape) == ("Conv2d", (1, 1, 28, 28), (1, 6, 28, 28))
    assert first.parameters == 156
    json.dumps(found.to_json(), allow_nan=False)


def test_parameters_read_without_a_call_belong_to_the_reader() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.zeros(1, 3, 8)
    (layer,) = cost(model, (x, x, x)).layers
    assert (layer.name, layer.kind) == ("", "MultiheadAttention")
    assert layer.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert layer.macs == attention_macs(1, 3, 8)


def test_a_module_called_twice_counts_twice() -> None:
    shared = nn.Linear(4, 4)
    found = cost(nn.Sequential(shared, nn.ReLU(), shared), torch.zeros(1, 4))
    assert found.macs == 32
    assert [(layer.name, layer.macs, layer.parameters) for layer in found.layers] == [
        ("0", 32, 20),
        ("1", 0, 0),
    ]


def test_macs_nonzero_follow_the_density_of_each_weight() -> None:
    model = lenet()
    with torch.no_grad():
        model[0].weight[:3] = 0
        model[7].weight[:, :100] = 0
        model[11].weight.zero_()
    left = LENET_MACS | {"0": LENET_MACS["0"] // 2, "7": LENET_MACS["7"] * 3 // 4, "11": 0}
    found = cost(model, IMAGE)
    assert found.macs == sum(LENET_MACS.values())
    assert {layer.name: layer.macs_nonzero for layer in found.layers if layer.macs} == left
    assert found.macs_nonzero == sum(left.values())


def test_macs_nonzero_of_fused_attention_projections() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        model.in_proj_weight[:8] = 0  # the query's third
    x = torch.zeros(1, 3, 8)
    found = cost(model, (x, x, x))
    assert found.macs - found.macs_nonzero == 3 * 8 * 8


def test_macs_nonzero_sees_masks_and_torch_prune() -> None:
    model = nn.Linear(6, 4, bias=False)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[:, ::2] = False
    before = model.weight.detach().clone()
    assert cost(model, torch.zeros(1, 6), {"weight": mask}).macs_nonzero == 12
    assert torch.equal(model.weight, before)
    torch_prune.custom_from_mask(model, "weight", mask)
    assert cost(model, torch.zeros(1, 6)).macs_nonzero == 12


def test_zero_activations_still_cost() -> None:
    model = nn.Linear(6, 4)
    assert cost(model, torch.zeros(1, 6)).macs_nonzero == 24


class Keywords(nn.Module):
    """Takes its inputs by name and works under inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 3)

    @torch.inference_mode()
    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.table(ids) * mask.unsqueeze(-1))}


def test_keyword_inputs_and_composite_operations() -> None:
    inputs = {"ids": torch.zeros(2, 5, dtype=torch.long), "mask": torch.ones(2, 5)}
    model = Keywords()
    found = cost(model, inputs)
    assert found.macs == 2 * 5 * 4 * 3
    assert found.layers[-1].output_shape == (2, 5, 3)
    single = measure(model, inputs, latency=False)
    assert single.macs == 5 * 4 * 3


@pytest.mark.parametrize("run", [cost, latency, measure])
def test_a_failing_forward_is_one_sentence(run: Callable[[nn.Module, Any], object]) -> None:
    model = lenet().train()
    with pytest.raises(
        ModelError, match=r"does not run on example inputs of shape \[1, 3, 28, 28\] \(Runtime"
    ) as info:
        run(model, torch.zeros(1, 3, 28, 28))
    assert "\n" not in str(info.value)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_cost_leaves_no_trace() -> None:
    model = lenet()
    model[0].eval()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    cost(model, IMAGE)
    assert [module.training for module in model] == [False] + [True] * 11
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    assert torch.backends.mkldnn.enabled
    assert torch.backends.cudnn.enabled
    assert all(parameter.grad is None for parameter in model.parameters())


def test_size_counts_state_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6).half())
    model[2].weight = nn.Parameter(model[2].weight.detach().t())
    expected = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert size(model).bytes_dense == expected
    model.append(nn.Linear(6, 6))
    model[3].weight = model[0].weight
    assert size(model).bytes_dense == expected + 6 * 4


def test_compressed_size_is_that_of_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(50, 40).bfloat16())
    model[0].weight.data = model[0].weight.data.to(memory_format=torch.channels_last)
    raw = b"".join(
        tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for tensor in model.state_dict().values()
    )
    assert size(model).bytes_compressed == len(zlib.compress(raw, 6))
    import importlib

    monkeypatch.setattr(importlib.import_module("secateur.measure.size"), "COMPRESSION_CHUNK", 7)
    assert size(model).bytes_compressed == len(zlib.compress(raw, 6))


def test_zeros_compress() -> None:
    model = nn.Linear(300, 300)
    dense = size(model)
    mask = torch.rand(300, 300, generator=torch.Generator().manual_seed(0)) > 0.8
    before = model.weight.detach().clone()
    sparse = size(model, {"weight": mask})
    assert sparse.bytes_dense == dense.bytes_dense == 300 * 301 * 4
    assert sparse.bytes_compressed < 0.35 * dense.bytes_compressed
    assert torch.equal(model.weight, before)
    with pytest.raises(ModelError, match="no values yet"):
        size(nn.Linear(2, 2, device="meta"))


class Recorder(nn.Module):
    """Notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.seen: list[tuple[int, bool, bool, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((len(x), self.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        return self.layer(x)  # type: ignore[no-any-return]


def test_latency_runs_what_it_says() -> None:
    model = Recorder()
    results = latency(model, torch.zeros(2, 3), batch_sizes=(1, 5), threads=1, seconds=0.02)
    assert [result.batch for result in results] == [1, 5]
    assert {(batch, training, inference) for batch, training, inference, _ in model.seen} == {
        (1, False, True),
        (5, False, True),
    }
    assert model.seen[-1][3] == 1
    assert model.training
    for result in results:
        assert 0 < result.median < 0.02
        assert result.iqr >= 0
        assert result.runs > 5
        assert result.threads == 1
        assert result.throughput == result.batch / result.median
    assert sum(result.runs for result in results) < len(model.seen)
    json.dumps(results[0].to_json(), allow_nan=False)


def test_comparison_takes_turns() -> None:
    order: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str, width: int) -> None:
            super().__init__()
            self.name = name
            self.layer = nn.Linear(width, width)

        def forward(self, x: Tensor) -> Tensor:
            order.append(self.name)
            return self.layer(x.repeat(1, self.layer.in_features))  # type: ignore[no-any-return]

    models = {"large": Named("large", 512), "small": Named("small", 2)}
    results = compare_latency(models, torch.zeros(1, 1), batch_sizes=(16,), threads=1, seconds=0.05, rounds=4)
    assert list(results) == ["large", "small"]
    assert results["large"][0].median > results["small"][0].median
    turns = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
    assert turns == ["large", "small"] * 3 + ["large"]  # warm-up, then there and back, twice


@pytest.mark.parametrize(
    "wrong", [{"batch_sizes": (0,)}, {"seconds": 0}, {"threads": 0}, {"seconds": math.nan}, {"threads": -1}]
)
def test_latency_refuses_numbers_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be"):
        latency(nn.Linear(1, 1), torch.zeros(1, 1), **wrong)


@pytest.mark.parametrize("inputs", [torch.tensor(1.0), (), {"flag": True}, torch.zeros(0, 1)])
def test_examples_without_a_sample_are_refused(inputs: Any) -> None:
    with pytest.raises(InputError, match="at least one sample"):
        latency(nn.Linear(1, 1), inputs)


def test_measure_is_the_sum_of_its_parts() -> None:
    model = lenet()
    mask = torch.zeros(120, 400, dtype=torch.bool)
    mask[:, :40] = True
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = measure(model, IMAGE.repeat(4, 1, 1, 1), {"7.weight": mask}, batch_sizes=(1, 2), seconds=0.01)
    assert found.parameters == 61706
    assert found.nonzero == 61706 - 43200
    assert found.sparsity == pytest.approx(43200 / 61706)
    assert found.weight_sparsity == pytest.approx(43200 / 61470)
    assert found.macs == sum(LENET_MACS.values())
    assert found.macs_nonzero == found.macs - 43200
    assert found.bytes_dense == 4 * 61706
    assert found.bytes_compressed == size(model, {"7.weight": mask}).bytes_compressed
    assert [result.batch for result in found.latencies] == [1, 2]
    assert found.note.startswith("70 % of the weights are zero, but the tensors keep their size")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["latencies"][1]["batch"] == 2


def test_a_dense_model_needs_no_note() -> None:
    found = measure(lenet(), IMAGE, latency=False)
    assert found.note == ""
    assert found.latencies == ()
    assert found.macs_nonzero == found.macs
