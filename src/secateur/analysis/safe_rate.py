"""The safe rate of global magnitude pruning of a trained model, computed from its weights alone.

After "What Makes a Good Prune? Maximal Unstructured Pruning for Maximal Cosine Similarity" (Mason-Williams
and Dahlqvist, ICLR 2024). Zeroing the k entries of least magnitude out of N leaves a parameter vector whose
cosine to the old one is √(energy kept / energy). So one sort of |θ| and one cumulative sum give the cosine at
every rate k/N, without a pruned copy of the model:

- the optimum p* is the rate whose point (cosine, rate) lies nearest to (1, 1), found over all N + 1 ranks;
- κ², the kurtosis of the parameter tensors' kurtoses, measures the differences between the tensors;
- the safe rate is p* · 1/ln κ², with the logarithm to base 2 if κ² < e, and never more than p*.

The magnitudes are held once, in float32 (float64 if a parameter is), and sorted in place; energies are
summed in float64, a chunk at a time. At rate 1 nothing is kept and the cosine, 0/0, is taken to be 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from secateur.analysis.kurtosis import kurtosis
from secateur.core.brief import Brief
from secateur.core.computed import plain
from secateur.core.errors import InputError, ModelError, StoreError
from secateur.core.modules import named_parameters

RANK_CHUNK = 1 << 17
"""Ranks per chunk in float64: 1 MB, which fits the processor's cache."""


class CurvePoint(NamedTuple):
    """The cosine of the parameters with their copy whose fraction `rate` of least magnitude is zero."""

    rate: float
    cosine: float


class TensorKurtosis(NamedTuple):
    """The Pearson kurtosis (normal = 3) of one parameter tensor of `size` entries."""

    name: str
    kurtosis: float
    size: int


class Excluded(NamedTuple):
    """A parameter tensor without a kurtosis, and the reason. It still counts towards the cosine."""

    name: str
    reason: str


@dataclass(frozen=True, repr=False)
class SafeRate(Brief):
    """The safe pruning rate of a model and the numbers it was computed from.

    All rates are fractions removed of all `parameters`; a rate r stands for exactly round(r · parameters)
    entries. `kurtosis_of_kurtoses` is None if fewer than two tensors have a kurtosis or all kurtoses are
    equal; `modifier` is the published factor, before clamping, and None if it is undefined (no κ², or κ² =
    1). Then, and if the factor exceeds 1, `safe` is the optimum, with a sentence in `notes`.
    """

    optimum: float
    optimum_cosine: float
    kurtosis_of_kurtoses: float | None
    modifier: float | None
    safe: float
    safe_cosine: float
    notes: tuple[str, ...]
    curve: tuple[CurvePoint, ...]
    kurtoses: tuple[TensorKurtosis, ...]
    excluded: tuple[Excluded, ...]
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """Return the value as JSON: dictionaries, lists, numbers and strings."""
        return asdict(self) | {
            "notes": list(self.notes),
            "curve": [point._asdict() for point in self.curve],
            "kurtoses": [entry._asdict() for entry in self.kurtoses],
            "excluded": [entry._asdict() for entry in self.excluded],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SafeRate:
        """Return the value of a `to_json` mapping; other keys are ignored. Raises `StoreError` for a missing key."""
        try:
            return cls(
                **{
                    **{field.name: value[field.name] for field in fields(cls)},
                    "notes": tuple(value["notes"]),
                    "curve": tuple(CurvePoint(**point) for point in value["curve"]),
                    "kurtoses": tuple(TensorKurtosis(**entry) for entry in value["kurtoses"]),
                    "excluded": tuple(Excluded(**entry) for entry in value["excluded"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise StoreError(f"This is not a saved safe rate ({error}): compute it again.") from None


def safe_rate(model: nn.Module | Mapping[str, Tensor]) -> SafeRate:
    """Return the optimum and the safe rate of global magnitude pruning; needs no data and no forward pass.

    `model` is a module, of which all floating-point parameters count (those that a module computes from others, as
    under weight norm, as it computes them), or a mapping from names to tensors, of which all floating-point ones
    count; tied ones count once. Needs memory for one and a half float32 copies of the
    parameters. Raises `ModelError` without floating-point parameters, for NaN, infinite or uninitialised ones, and
    if all are zero.
    """
    tensors = _floating_tensors(model)
    kurtoses, excluded = _kurtoses(tensors)
    spectrum = _Spectrum(tensors.values())
    count = spectrum.count

    rank, cosine = spectrum.nearest_to_utopia()
    optimum = rank / count
    k2 = _kurtosis_of_kurtoses(kurtoses)
    modifier = _modifier(k2)
    safe = optimum if modifier is None else optimum * min(modifier, 1.0)
    return SafeRate(
        optimum=optimum,
        optimum_cosine=cosine,
        kurtosis_of_kurtoses=k2,
        modifier=modifier,
        safe=safe,
        safe_cosine=spectrum.cosine(round(safe * count)),
        notes=tuple(_notes(k2, modifier, len(kurtoses))),
        curve=tuple(
            CurvePoint(p, spectrum.cosine(round(p * count))) for p in np.linspace(0, 1, 101).tolist()
        ),
        kurtoses=kurtoses,
        excluded=excluded,
        parameters=count,
    )


def cosine_at(model: nn.Module | Mapping[str, Tensor], rates: Iterable[float]) -> tuple[float, ...]:
    """Return the exact cosine at each of `rates`, fractions in [0, 1]; one sort serves them all.

    `model` and the errors raised are those of `safe_rate`; a rate outside [0, 1] raises `InputError`.
    """
    rates = tuple(rates)
    for rate in rates:
        if not 0 <= rate <= 1:
            raise InputError(f"{rate} is no pruning rate: give a fraction between 0 and 1.")
    tensors = _floating_tensors(model)
    for name, tensor in tensors.items():
        _require_finite(name, tensor)
    spectrum = _Spectrum(tensors.values())
    return tuple(spectrum.cosine(round(rate * spectrum.count)) for rate in rates)


class _Spectrum:
    """The sorted magnitudes of all entries, and the cosine after zeroing the `rank` least of them."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        tensors = tuple(tensors)
        self.count = sum(tensor.numel() for tensor in tensors)
        wide = any(tensor.dtype == torch.float64 for tensor in tensors)
        self.magnitudes = np.empty(self.count, np.float64 if wide else np.float32)
        start = 0
        for tensor in tensors:
            place = torch.from_numpy(self.magnitudes[start : start + tensor.numel()])
            place.view(tensor.shape).copy_(tensor)
            place.abs_()
            start += tensor.numel()
        _sort(self.magnitudes, torch.get_num_threads())
        self.largest = float(self.magnitudes[-1])
        if self.largest == 0:
            raise ModelError(
                "All parameters are zero, so there is nothing to compare: load trained weights first."
            )
        energies = [float(self._energy(start).sum()) for start in range(0, self.count, RANK_CHUNK)]
        self.kept_from = np.cumsum([0.0, *energies[::-1]])[::-1]
        """Energy of all chunks from each one on; the first entry is the energy of the whole vector."""

    def cosine(self, rank: int) -> float:
        """√(energy kept / energy) after zeroing the `rank` smallest; 1 at rank 0 and 0 at rank N."""
        chunk, offset = divmod(rank, RANK_CHUNK)
        if offset == 0:
            kept = self.kept_from[chunk]
        else:
            kept = self.kept_from[chunk + 1] + self._energy(chunk * RANK_CHUNK)[offset:].sum()
        return min(1.0, math.sqrt(kept / self.kept_from[0]))

    def nearest_to_utopia(self) -> tuple[int, float]:
        """Return the lowest rank that minimises (1 − cosine)² + (1 − rank/N)², and its cosine."""
        nearest, found = math.inf, 0
        for chunk, start in enumerate(range(0, self.count, RANK_CHUNK)):
            kept = self.kept_from[chunk + 1] + np.cumsum(self._energy(start)[::-1])[::-1]
            cosine = np.sqrt(kept / self.kept_from[0])
            rate = np.arange(start, start + kept.size) / self.count
            distance = (1 - cosine) ** 2 + (1 - rate) ** 2
            best = int(distance.argmin())
            if distance[best] < nearest:
                nearest, found = float(distance[best]), start + best
        return found, self.cosine(found)

    def _energy(self, start: int) -> npt.NDArray[np.float64]:
        """Squares of one chunk in float64, relative to the largest so that none overflows."""
        chunk = self.magnitudes[start : start + RANK_CHUNK].astype(np.float64)
        chunk /= self.largest
        return np.square(chunk, out=chunk)


def _sort(values: npt.NDArray[Any], threads: int) -> None:
    """Sort in place: one run per thread, then a stable sort, which merges sorted runs in a few passes."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.ndarray.sort, np.array_split(values, threads)))
    values.sort(kind="stable")


def _floating_tensors(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = _effective(model) if isinstance(model, nn.Module) else model.items()
    tensors: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in named:
        if not tensor.is_floating_point():
            continue
        if tensor.is_meta or is_lazy(tensor):
            raise ModelError(
                f"{name} has no values yet: load weights, or run a lazy module once, before analysing it."
            )
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place not in seen:
            seen.add(place)
            tensors[name] = tensor.detach()
    if not tensors:
        raise ModelError(
            "The model has no floating point parameters, so there is nothing to prune: check the model."
        )
    return tensors


def _effective(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters that a model works with: what it computes, by the names of its modules, not the sources."""
    with plain(model):
        yield from named_parameters(model)


def _require_finite(name: str, tensor: Tensor) -> None:
    lowest, highest = tensor.aminmax()
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise ModelError(
            f"{name} holds NaN or infinite values: load weights of a training that did not diverge."
        )


def _kurtoses(tensors: Mapping[str, Tensor]) -> tuple[tuple[TensorKurtosis, ...], tuple[Excluded, ...]]:
    usable: list[TensorKurtosis] = []
    excluded: list[Excluded] = []
    for name, tensor in tensors.items():
        _require_finite(name, tensor)
        value = kurtosis(tensor)
        if not math.isnan(value):
            usable.append(TensorKurtosis(name, value, tensor.numel()))
        elif tensor.numel() == 1:
            excluded.append(Excluded(name, "it has a single entry"))
        else:
            excluded.append(Excluded(name, "all its entries are equal"))
    return tuple(usable), tuple(excluded)


def _kurtosis_of_kurtoses(kurtoses: tuple[TensorKurtosis, ...]) -> float | None:
    value = kurtosis(torch.tensor([entry.kurtosis for entry in kurtoses], dtype=torch.float64))
    return None if math.isnan(value) else value


def _modifier(k2: float | None) -> float | None:
    """1/ln κ², or 1/log₂ κ² if κ² < e; None without κ² or for κ² = 1."""
    if k2 is None or k2 < 1 + 1e-9:  # κ² ≥ 1, so this is κ² = 1 up to rounding
        return None
    return 1 / math.log(k2) if k2 >= math.e else 1 / math.log2(k2)


def _notes(k2: float | None, modifier: float | None, usable: int) -> Iterator[str]:
    clamped = "the safe rate is the optimum itself, without a margin"
    if usable < 2:
        yield f"Fewer than two parameter tensors have a kurtosis, so κ² does not exist and {clamped}."
    elif k2 is None:
        yield f"All parameter tensors have the same kurtosis, so κ² does not exist and {clamped}."
    elif modifier is None:
        yield f"κ² is 1, where the modifier 1/log₂ κ² is infinite, so {clamped}."
    elif modifier > 1:
        yield f"κ² is {k2:.2f}, below 2, so the modifier {modifier:.2f} exceeds 1 and was clamped: {clamped}."
