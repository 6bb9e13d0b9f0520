"""Models prepared for quantisation: observers and fake quantisers go along, and what is left converts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as q
from torch.ao.quantization import quantize_fx

import secateur

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    """Convolutions with normalisations, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.act = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.second, self.last = nn.Conv2d(8, 12, 3), nn.Linear(12, 2)
        self.quant, self.dequant = q.QuantStub(), q.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm(self.first(self.quant(x))))
        return self.dequant(self.last(self.act(self.second(h)).mean((2, 3))))


def observers(activation: Any, weight: Any) -> q.QConfig:
    return q.QConfig(activation=activation, weight=weight)


BY_CHANNEL = q.PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
PLAIN = q.MinMaxObserver.with_args(dtype=torch.quint8)
MOVING = q.MovingAverageMinMaxObserver.with_args(dtype=torch.quint8)
WHOLE = q.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
FAKE = q.FakeQuantize.with_args(observer=q.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
FAKE_BY_CHANNEL = q.FakeQuantize.with_args(
    observer=q.MovingAveragePerChannelMinMaxObserver,
    quant_min=-128,
    quant_max=127,
    dtype=torch.qint8,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
)
BEFORE: dict[str, q.QConfig] = {
    "histograms and channels": q.get_default_qconfig("fbgemm"),
    "histograms and whole tensors": q.default_qconfig,
    "ranges and channels": observers(PLAIN, BY_CHANNEL),
    "moving averages": observers(MOVING, WHOLE),
}
DURING: dict[str, q.QConfig] = {
    "fused, by channel": q.get_default_qat_qconfig("fbgemm"),
    "fused, whole tensors": q.default_qat_qconfig,
    "in parts, by channel": observers(FAKE, FAKE_BY_CHANNEL),
}


def eager(config: q.QConfig, training: bool) -> nn.Module:
    model: Any = Net().train(training)
    q.fuse_modules_qat(model, [["first", "norm", "act"]], inplace=True) if training else q.fuse_modules(
        model.eval(), [["first", "norm", "act"]], inplace=True
    )
    model.qconfig = config
    (q.prepare_qat if training else q.prepare)(model, inplace=True)
    model(X)
    return model


def by_graph(config: q.QConfig, training: bool) -> nn.Module:
    prepare = quantize_fx.prepare_qat_fx if training else quantize_fx.prepare_fx
    model: nn.Module = prepare(Net().train(training), q.QConfigMapping().set_global(config), (X,))
    model(X)
    return model


CASES = [(name, config, False) for name, config in BEFORE.items()]
CASES += [(name, config, True) for name, config in DURING.items()]


@pytest.mark.parametrize(("prepare", "convert"), [(eager, q.convert), (by_graph, quantize_fx.convert_fx)])
@pytest.mark.parametrize(("name", "config", "training"), CASES, ids=[name for name, *_ in CASES])
def test_a_prepared_model_is_cut_and_converts(
    prepare: Callable[..., nn.Module],
    convert: Callable[..., nn.Module],
    name: str,
    config: q.QConfig,
    training: bool,
) -> None:
    model = prepare(config, training)
    before = copy.deepcopy(model.state_dict())
    result = secateur.prune(model, X, granularity="channel", amount=0.5, scope="local")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert result.verification is not None
    assert result.verification.error < 1e-9
    small = result.model
    weights = [
        tensor for key, tensor in small.named_parameters() if key.endswith("weight") and tensor.ndim > 1
    ]
    assert [tuple(weight.shape[:2]) for weight in weights] == [(4, 3), (6, 4), (2, 6)]
    after = dict(small.named_buffers())
    for key, tensor in model.named_buffers():
        if tensor.ndim == 1 and len(tensor) in (8, 12):
            assert len(after[key]) == len(tensor) // 2, key
    small(X)
    ready = convert(copy.deepcopy(small).eval())
    assert ready(X).shape == (4, 2)
    torch.testing.assert_close(ready(X), small.eval()(X), atol=0.2, rtol=0.2)


def test_a_model_whose_observers_are_off_is_cut_with_what_they_noted() -> None:
    model = eager(DURING["in parts, by channel"], True)
    model.apply(q.disable_observer)
    small = secateur.prune(model, X, granularity="channel", amount=0.5, scope="local").model
    noted = small.get_submodule("second.weight_fake_quant.activation_post_process")
    assert len(noted.min_val) == len(noted.max_val) == 6


def test_a_prepared_model_that_has_seen_nothing_is_cut() -> None:
    model: Any = Net().train()
    model.qconfig = DURING["fused, by channel"]
    q.prepare_qat(model, inplace=True)
    small = secateur.prune(model, X, granularity="channel", amount=0.5, scope="local").model
    assert small(X).shape == (4, 2)
    assert len(small.second.weight_fake_quant.scale) == 6
