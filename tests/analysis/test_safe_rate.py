from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from secateur.analysis import SafeRate, cosine_at, kurtosis, safe_rate
from secateur.core.errors import InputError, ModelError, StoreError


class Mixed(nn.Module):
    """Convolution, BatchNorm, attention and a position table: every sort of parameter."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.position = nn.Parameter(torch.empty(1, 5, 8))
        self.head = nn.Linear(8, 10)
        generator = torch.Generator().manual_seed(seed)
        for index, parameter in enumerate(self.parameters()):
            parameter.data.normal_(generator=generator).pow_(1 + index % 3)


def swept_cosine(tensors: list[torch.Tensor], rate: float) -> float:
    """The definition: copy, zero the least magnitudes, take the cosine of both vectors in float64."""
    vector = np.concatenate([t.detach().numpy().astype(np.float64).ravel() for t in tensors])
    mask = np.ones(vector.size)
    mask[np.argsort(np.abs(vector), kind="stable")[: round(rate * vector.size)]] = 0
    pruned = vector * mask
    norms = np.linalg.norm(vector) * np.linalg.norm(pruned)
    return float(vector @ pruned / norms) if norms else 0.0


def scipy_kurtosis(values: object) -> float:
    return float(scipy.stats.kurtosis(np.asarray(values, dtype=np.float64).ravel(), fisher=False, bias=True))


def test_curve_matches_the_sweep_of_copies() -> None:
    model = Mixed()
    result = safe_rate(model)
    tensors = list(model.parameters())
    assert [point.rate for point in result.curve] == np.linspace(0, 1, 101).tolist()
    for point in result.curve:
        assert point.cosine == pytest.approx(swept_cosine(tensors, point.rate), abs=1e-12)
    assert result.curve[0].cosine == 1
    assert result.curve[-1].cosine == 0
    assert result.parameters == sum(tensor.numel() for tensor in tensors)


def test_optimum_is_the_best_of_all_ranks() -> None:
    model = Mixed(1)
    tensors = list(model.parameters())
    count = sum(tensor.numel() for tensor in tensors)
    distances = [
        (1 - swept_cosine(tensors, rank / count)) ** 2 + (1 - rank / count) ** 2 for rank in range(count + 1)
    ]
    result = safe_rate(model)
    assert result.optimum == int(np.argmin(distances)) / count
    assert result.optimum_cosine == pytest.approx(swept_cosine(tensors, result.optimum), abs=1e-12)


def test_kurtoses_match_scipy() -> None:
    model = Mixed()
    result = safe_rate(model)
    expected = {name: scipy_kurtosis(p.detach()) for name, p in model.named_parameters()}
    assert {entry.name: entry.kurtosis for entry in result.kurtoses} == pytest.approx(expected, rel=1e-10)
    assert {"position", "attention.in_proj_weight", "norm.weight"} <= {
        entry.name for entry in result.kurtoses
    }
    k2 = scipy_kurtosis(list(expected.values()))
    assert result.kurtosis_of_kurtoses == pytest.approx(k2, rel=1e-9)
    assert result.excluded == ()


@pytest.mark.parametrize("outliers", [4, 6, 8, 12, 30])
def test_modifier(outliers: int) -> None:
    """One tensor unlike `outliers` others of about the same kurtosis: κ² grows with their number."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"normal{i}": torch.randn(2000, generator=generator) for i in range(outliers)}
    tensors["spiky"] = torch.randn(2000, generator=generator) ** 5
    result = safe_rate(tensors)
    k2, modifier = result.kurtosis_of_kurtoses, result.modifier
    assert k2 is not None
    assert modifier is not None
    assert k2 == pytest.approx(scipy_kurtosis([entry.kurtosis for entry in result.kurtoses]))
    assert k2 > 2
    assert modifier == pytest.approx(1 / np.log(k2) if k2 >= math.e else 1 / np.log2(k2))
    assert result.safe == result.optimum * modifier
    assert result.safe < result.optimum
    assert result.safe_cosine == pytest.approx(swept_cosine(list(tensors.values()), result.safe), abs=1e-12)
    assert result.notes == ()


def test_the_published_lenet_figures() -> None:
    from secateur.analysis.safe_rate import _modifier

    modifier = _modifier(2.49)
    assert modifier is not None
    assert 0.83 * modifier == pytest.approx(0.632, abs=0.002)
    assert _modifier(64.0) == pytest.approx(0.2404, abs=1e-4)


def test_modifier_above_one_is_clamped_and_said() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"t{i}": torch.randn(500, generator=generator) ** (1 + i) for i in range(3)
    }  # κ² of three ≤ 1.5
    result = safe_rate(tensors)
    assert result.kurtosis_of_kurtoses is not None
    assert 1 < result.kurtosis_of_kurtoses <= 1.5
    assert result.modifier is not None
    assert result.modifier > 1
    assert result.safe == result.optimum
    assert result.safe_cosine == result.optimum_cosine
    (note,) = result.notes
    assert "clamped" in note


def of_kurtosis(value: int) -> Tensor:
    """A tensor of that kurtosis, exactly: one entry in `value` is 1 or −1, the others are 0."""
    return torch.tensor([1.0, -1.0] * 6 + [0.0] * (12 * (value - 1)))


@pytest.mark.parametrize(
    ("kurtoses", "k2", "modifier"),
    [
        ((2, 2, 3, 4, 8), 2.7036940684786616, 1 / math.log2(2.7036940684786616)),
        ((2, 2, 5, 5, 5, 10), 2.7519114596738787, 1 / math.log(2.7519114596738787)),
    ],
)
def test_the_logarithm_changes_at_e(kurtoses: tuple[int, ...], k2: float, modifier: float) -> None:
    result = safe_rate({str(at): of_kurtosis(value) for at, value in enumerate(kurtoses)})
    assert [entry.kurtosis for entry in result.kurtoses] == pytest.approx(kurtoses)
    assert result.kurtosis_of_kurtoses == pytest.approx(k2)
    assert result.modifier == pytest.approx(modifier)


def test_kurtosis_of_kurtoses_of_one_divides_nothing_by_zero() -> None:
    tensors = {"uniform": torch.linspace(-1, 1, 100), "cubes": torch.linspace(-1, 1, 100) ** 3}  # κ² = 1
    result = safe_rate(tensors)
    assert result.kurtosis_of_kurtoses == pytest.approx(1)
    assert result.modifier is None
    assert result.safe == result.optimum
    assert "κ² is 1" in result.notes[0]


def test_equal_kurtoses_have_no_kurtosis() -> None:
    tensors = {name: torch.linspace(-1, 1, 65) * scale for name, scale in {"a": 1, "b": 2, "c": 4}.items()}
    result = safe_rate(tensors)
    assert result.kurtosis_of_kurtoses is None
    assert result.modifier is None
    assert result.safe == result.optimum
    assert "same kurtosis" in result.notes[0]


def test_constant_and_single_tensors_have_no_kurtosis_but_count() -> None:
    tensors = {
        "weight": torch.linspace(-1, 2, 40).exp(),
        "cubes": torch.linspace(-1, 2, 40) ** 3,
        "scale": torch.full((7,), 0.1),  # the mean of 0.1s is not exactly 0.1
        "shift": torch.zeros(9),
        "temperature": torch.tensor(3.5),
        "nothing": torch.zeros(0),
    }
    result = safe_rate(tensors)
    assert [entry.name for entry in result.kurtoses] == ["weight", "cubes"]
    assert [entry.name for entry in result.excluded] == ["scale", "shift", "temperature"]
    assert result.excluded[2].reason == "it has a single entry"
    assert result.parameters == 40 + 40 + 7 + 9 + 1
    for point in result.curve:
        assert point.cosine == pytest.approx(swept_cosine(list(tensors.values()), point.rate), abs=1e-12)


@pytest.mark.parametrize("usable", [0, 1])
def test_fewer_than_two_usable_tensors(usable: int) -> None:
    tensors = {"ones": torch.ones(10)} | {f"w{i}": torch.randn(50) for i in range(usable)}
    result = safe_rate(tensors)
    assert result.kurtosis_of_kurtoses is None
    assert result.modifier is None
    assert result.safe == result.optimum
    assert "Fewer than two" in result.notes[0]
    json.dumps(result.to_json(), allow_nan=False)


def test_one_single_entry() -> None:
    result = safe_rate({"w": torch.tensor([2.0])})
    assert (result.optimum, result.optimum_cosine, result.safe) == (0, 1, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("analyse", [safe_rate, lambda model: cosine_at(model, [0.5])])
def test_non_finite_weights_are_named(value: float, analyse: object) -> None:
    model = Mixed()
    with torch.no_grad():
        model.head.weight[3, 3] = value
    with pytest.raises(ModelError, match=r"head\.weight holds NaN or infinite"):
        analyse(model)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.ReLU()), "no floating point parameters"),
        ({"table": torch.arange(5)}, "no floating point parameters"),
        ({"w": torch.zeros(0)}, "no floating point parameters"),
        ({"w": torch.zeros(5), "b": torch.zeros(2)}, "All parameters are zero"),
        (nn.LazyLinear(3), "has no values yet"),
        (nn.Linear(3, 3, device="meta"), "has no values yet"),
    ],
)
def test_models_without_values(model: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        safe_rate(model)  # type: ignore[arg-type]


def test_tied_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    model[1].weight = model[0].weight
    assert safe_rate(model).parameters == 36
    assert [entry.name for entry in safe_rate(model.state_dict()).kurtoses] == ["0.weight"]


def test_names_do_not_change_the_numbers() -> None:
    tensors = dict(Mixed().named_parameters())
    backwards = dict(reversed(tensors.items()))
    assert safe_rate(tensors).optimum == safe_rate(backwards).optimum
    assert safe_rate(tensors).safe == pytest.approx(safe_rate(backwards).safe)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_and_layout(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 4, 5, 5, generator=generator).to(dtype).to(memory_format=torch.channels_last)
    transposed = torch.randn(30, 7, generator=generator).to(dtype).t()
    result = safe_rate({"weight": weight, "transposed": transposed})
    tensors = [weight.double().contiguous(), transposed.double().contiguous()]
    assert [p.cosine for p in result.curve] == pytest.approx(
        [swept_cosine(tensors, p.rate) for p in result.curve], abs=1e-12
    )
    assert [k.kurtosis for k in result.kurtoses] == pytest.approx(
        [scipy_kurtosis(t) for t in tensors], rel=1e-9
    )


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e-200, 1e200])
def test_scale_does_not_matter(scale: float) -> None:
    tensors = {name: tensor.double() for name, tensor in Mixed().named_parameters()}
    plain = safe_rate(tensors)
    scaled = safe_rate({name: tensor * scale for name, tensor in tensors.items()})
    assert scaled.optimum == plain.optimum
    assert scaled.safe == pytest.approx(plain.safe)


def test_vectors_longer_than_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    plain = safe_rate(Mixed())
    for module, chunk in (("safe_rate", "RANK_CHUNK"), ("kurtosis", "KURTOSIS_CHUNK")):
        monkeypatch.setattr(importlib.import_module(f"secateur.analysis.{module}"), chunk, 16)
    chunked = safe_rate(Mixed())
    assert chunked.optimum == plain.optimum
    assert chunked.safe == pytest.approx(plain.safe, rel=1e-12)
    assert [p.cosine for p in chunked.curve] == pytest.approx([p.cosine for p in plain.curve], abs=1e-12)


def test_the_model_is_not_touched() -> None:
    model = Mixed()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    safe_rate(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_cosine_at_is_exact() -> None:
    tensors = dict(Mixed().named_parameters())
    rates = [0.0, 0.123, 0.5, 0.997, 1.0]
    expected = [swept_cosine(list(tensors.values()), rate) for rate in rates]
    assert cosine_at(tensors, rates) == pytest.approx(expected, abs=1e-12)
    with pytest.raises(InputError, match=r"1\.2 is no pruning rate"):
        cosine_at(tensors, [1.2])


def test_json_round_trip() -> None:
    result = safe_rate(Mixed())
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert SafeRate.from_json(value) == result
    assert SafeRate.from_json(value | {"command": "secateur safe-rate"}) == result
    assert list(value) == [
        "optimum",
        "optimum_cosine",
        "kurtosis_of_kurtoses",
        "modifier",
        "safe",
        "safe_cosine",
        "notes",
        "curve",
        "kurtoses",
        "excluded",
        "parameters",
    ]
    assert value["curve"][100] == {"rate": 1.0, "cosine": 0.0}
    assert set(value["kurtoses"][0]) == {"name", "kurtosis", "size"}


@pytest.mark.parametrize("value", [{}, {"optimum": 1}, {"curve": 3}])
def test_foreign_json_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="not a saved safe rate"):
        SafeRate.from_json(value)
    with pytest.raises(StoreError, match="not a saved safe rate"):
        SafeRate.from_json(safe_rate(Mixed()).to_json() | {"curve": [{"colour": "red"}]})


@pytest.mark.parametrize(
    ("name", "published"), [("uniform", 0.75), ("normal", 0.80), ("logistic", 0.82), ("laplace", 0.84)]
)
def test_published_optima(name: str, published: float) -> None:
    samples = getattr(np.random.default_rng(0), name)(size=200_000)
    samples = samples - 0.5 if name == "uniform" else samples
    assert safe_rate({name: torch.from_numpy(samples)}).optimum == pytest.approx(published, abs=0.01)


finite = st.floats(-1e6, 1e6, width=32).map(lambda x: 0.0 if abs(x) < 1e-6 else x)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=finite), min_size=1)
)
def test_invariants(arrays: list[np.ndarray]) -> None:
    tensors = {str(index): torch.from_numpy(array) for index, array in enumerate(arrays)}
    if not any(tensor.any() for tensor in tensors.values()):
        return
    result = safe_rate(tensors)
    assert 0 <= result.safe <= result.optimum <= 1
    cosines = [point.cosine for point in result.curve]
    assert all(0 <= cosine <= 1 for cosine in cosines)
    assert np.diff(cosines).max() < 1e-12
    assert result.safe_cosine > result.optimum_cosine - 1e-12
    assert len(result.kurtoses) + len(result.excluded) == len(tensors)
    distance = (1 - result.optimum_cosine) ** 2 + (1 - result.optimum) ** 2
    count = result.parameters
    for point in result.curve:
        exact = round(point.rate * count) / count
        assert distance <= (1 - point.cosine) ** 2 + (1 - exact) ** 2 + 1e-12
    assert all(entry.kurtosis >= 1 - 1e-9 for entry in result.kurtoses)
    json.dumps(result.to_json(), allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, st.integers(2, 40), elements=st.integers(-50, 50).map(float)))
def test_kurtosis_is_scipys(values: np.ndarray) -> None:
    ours = kurtosis(torch.from_numpy(values))
    if (values == values[0]).all():
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(scipy_kurtosis(values), rel=1e-9)


@pytest.mark.parametrize("values", [[], [1.0], [0.1] * 7, [1.0, math.nan], [1.0, math.inf]])
def test_undefined_kurtosis_is_nan(values: list[float]) -> None:
    assert math.isnan(kurtosis(torch.tensor(values)))
