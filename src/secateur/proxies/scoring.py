"""The score of a network: the formula of each tensor, summed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from secateur.core.computed import plain
from secateur.core.errors import InputError, ModelError
from secateur.core.modules import modules_of, named_parameters
from secateur.criteria import QUANTITIES, Calibration
from secateur.criteria.quantities import QuantitySource
from secateur.proxies.registry import PROXIES, Proxy
from secateur.sparsity.targets import prunable, require_module, role

Data: TypeAlias = tuple[Any, Tensor | None]
"""One batch: inputs of the networks, and labels, int64 [N], or None for proxies without a loss."""

Measured: TypeAlias = tuple[dict[str, Tensor], float]
"""A quantity by name of a tensor, and the seconds of its measurement."""


def score(model: nn.Module, proxy: str, data: Data, *, seed: int = 0, **options: Any) -> float:
    """Return the score of `model` by the registered `proxy`; higher predicts better accuracy.

    `data` is one batch (inputs, labels) on the model's device. Proxies without data use the inputs' shape alone,
    and those without a loss take None for the labels. `options` are those of the proxy's quantities, such as
    batch_norm="eval". The model and all random generators are unchanged afterwards, and the same `seed` (default 0)
    gives the same score.

    Raises `InputError` for an unknown proxy or option, a proxy that compares networks, and invalid data; `ModelError`
    for a model without weights, and for an infinite or NaN score.

    >>> torch.manual_seed(0) and score(nn.Linear(4, 2), "plain", (torch.eye(4), torch.tensor([0, 1, 0, 1]))) != 0
    True
    """
    require_module(model)
    with plain(model):
        return ScoredNetwork(model, checked(data), seed).score(entry(proxy), options)[0]


def entry(name: str) -> Proxy:
    """Return the proxy of this name. Raises `InputError` if it is unknown, or needs other networks to compare."""
    found = PROXIES[name]
    if found.voters:
        raise InputError(
            f"The proxy {name} compares networks: give several of them to secateur.proxies.rank."
        )
    return found


def checked(data: Any) -> Data:
    """Return `data`. Raises `InputError` unless it is a pair of finite inputs and int64 labels [N] from 0, or None."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise InputError("The data are one batch: give a pair of inputs and labels.")
    inputs, labels = data
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not tensors or not len(tensors[0]):
        raise InputError("The batch holds no sample: give inputs and labels of some.")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise InputError("The inputs hold NaN or infinity: give finite numbers.")
    if labels is not None:
        fits = isinstance(labels, Tensor) and labels.dtype == torch.int64 and len(labels) == len(tensors[0])
        if not fits or int(labels.min()) < 0:
            raise InputError(
                f"The labels don't fit the {len(tensors[0])} inputs: give each the number of its class, from 0 on."
            )
    return inputs, labels


class ScoredNetwork:
    """A network on one batch, with a cache of its measured quantities.

    Raises `ModelError` for a model without weights.
    """

    def __init__(self, model: nn.Module, data: Data, seed: int = 0) -> None:
        require_module(model)
        owned = (
            (module, *own) for module in modules_of(model) for own in named_parameters(module, recurse=False)
        )
        if not any(role(*each) == "weights" for each in owned):
            raise ModelError(f"{type(model).__name__} has no weights to score: give a network of layers.")
        inputs, labels = data
        example = tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) else leaf, inputs)
        batches = Calibration([(inputs, labels)])
        self._source = QuantitySource(model, prunable(model), batches, example, seed)
        self._found: dict[Any, Measured] = {}

    def score(self, proxy: Proxy, options: Mapping[str, Any]) -> tuple[float, float]:
        """Return the score and the seconds it takes alone. Raises `ModelError` for a score that is no finite number."""
        proxy.check(options)
        given = {**proxy.options, **options}
        found = {name: self._measured(name, given) for name in proxy.measures}
        start = time.perf_counter()
        names = self._names(found)
        total = math.nan
        with torch.no_grad(), suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            parts = [proxy.formula(*self._needs(proxy, found, name)) for name in names]
            total = float(torch.stack(parts).double().sum())
        seconds = time.perf_counter() - start + sum(taken for _, taken in found.values())
        if not math.isfinite(total):
            raise ModelError(
                f"The proxy {proxy.name} gives no finite number for {type(self._source.model).__name__}: "
                "do its outputs depend on its inputs, and are its weights of ordinary size?"
            )
        return total, seconds

    def _names(self, found: Mapping[str, Measured]) -> list[str]:
        """Return the keys common to all quantities: names of weights, or "inputs"."""
        first, *others = [values for values, _ in found.values()] or [dict(self._source.tensors)]
        return [name for name in first if all(name in values for values in others)]

    def _needs(self, proxy: Proxy, found: Mapping[str, Measured], name: str) -> Iterator[Tensor]:
        """Yield the formula's arguments for one tensor."""
        for need in proxy.needs:
            yield found[need][0][name] if need in found else self._source.tensors[name].detach()

    def _measured(self, name: str, options: Mapping[str, Any]) -> Measured:
        """Return a quantity, by name of a tensor, and the seconds of its measurement; cached."""
        quantity = QUANTITIES[name]
        own = {option: value for option, value in options.items() if option in quantity.options}
        key = (name, *sorted(own.items()))
        if key not in self._found:
            start = time.perf_counter()
            value = self._source.measured(quantity, own)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._found[key] = value, time.perf_counter() - start
        return self._found[key]
