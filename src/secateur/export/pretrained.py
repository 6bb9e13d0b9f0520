"""Writing of a smaller transformers model as a folder for `from_pretrained`.

The folder's configuration holds the model's sizes, so only a model whose layers have equal sizes can be written. The
fields are found by search: they are set to sizes left by the cut until a new model of that configuration has the shapes
and the outputs of the smaller one.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from secateur.core.contexts import evaluating
from secateur.core.errors import InputError, ModelError, StoreError
from secateur.core.extras import need
from secateur.core.files import make_folder, os_errors
from secateur.core.modules import named_modules
from secateur.core.seeds import same_draws
from secateur.graph.trace import tensors_of
from secateur.measure.inputs import ModelInputs, forward
from secateur.shrink.verify import distance

Change: TypeAlias = tuple[str, int]
"""A field of a configuration, as a path, and its new value."""

TRIES = 400
"""Most configurations tried for a model."""

PRETRAINED_TOLERANCE = 1e-6
"""Largest relative difference of outputs; the same operators run on the same numbers."""


def save_pretrained(model: nn.Module, example_inputs: ModelInputs, folder: str | os.PathLike[str]) -> None:
    """Write a smaller transformers model to `folder`, for the library's own `from_pretrained`.

    The folder must be new or empty. It takes its name once it has been opened again as a model of the same class with
    the same outputs on `example_inputs`. Tokenizers are not part of it.

    Raises `InputError` for a model that isn't transformers', `MissingExtraError` without transformers, `ModelError`
    for a model that no configuration describes, naming the layer that differs, and `StoreError` if the folder is not
    empty or can't be written.
    """
    _require_transformers(model)
    target = Path(folder)
    with os_errors(f"write {target}"):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StoreError(f"Cannot write {target}: it holds something already; choose another folder.")
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.part")
    with evaluating(model), same_draws(0, model), torch.no_grad(), _quiet(), os_errors(f"write {target}"):
        with same_draws(0, model):
            expected = tensors_of(forward(model, example_inputs))
        try:
            for config in _Search(model).configurations():
                shutil.rmtree(temporary, ignore_errors=True)
                _write(model, config, temporary)
                if _opens(temporary, model, example_inputs, expected):
                    temporary.replace(target)
                    return
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    raise ModelError(
        f"No configuration found for this {type(model).__name__} computes what it does: keep it with secateur.save."
    )


@dataclass(frozen=True)
class _ModelSignature:
    """Shapes of a model's tensors, and numeric attributes of its modules."""

    shapes: Mapping[str, tuple[int, ...]]
    numbers: Mapping[str, float] = field(repr=False)

    @classmethod
    def of(cls, model: nn.Module) -> _ModelSignature:
        return cls(
            {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
            {
                f"{path}:{key}": value
                for path, module in named_modules(model)
                for key, value in vars(module).items()
                if type(value) in (int, float)
            },
        )

    def comparable(self, other: _ModelSignature) -> bool:
        return self.shapes.keys() == other.shapes.keys() and all(
            len(shape) == len(other.shapes[name]) for name, shape in self.shapes.items()
        )

    def differences(self, other: _ModelSignature) -> list[tuple[int, int]]:
        """Return the differing sizes as pairs (own, other)."""
        pairs = (
            pair for name in self.shapes for pair in zip(self.shapes[name], other.shapes[name], strict=True)
        )
        return [(here, there) for here, there in pairs if here != there]

    def distance(self, other: _ModelSignature) -> tuple[int, int]:
        """Return the numbers of differing sizes and of differing attributes."""
        numbers = sum(self.numbers[key] != other.numbers.get(key) for key in self.numbers)
        return len(self.differences(other)), numbers


class _Search:
    """Search for configurations of a new model with the shapes of `model`, in order of likelihood."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.aim = _ModelSignature.of(model)
        self.idle: set[Change] = set()

    def configurations(self) -> Iterator[Any]:
        """Yield the configurations. Raises `ModelError`, naming a differing tensor, if there is none."""
        start = self._form({})
        if start is None or not start.comparable(self.aim):
            raise ModelError(
                f"A fresh {type(self.model).__name__} has other tensors than this one: keep it with secateur.save."
            )
        order = itertools.count()
        queue: list[tuple[tuple[int, int], int, dict[str, int], _ModelSignature]] = []
        heapq.heappush(queue, (start.distance(self.aim), next(order), {}, start))
        seen: set[frozenset[Change]] = {frozenset()}
        nearest, found = start, False
        for _ in range(TRIES):
            if not queue:
                break
            (apart, _), _, changes, form = heapq.heappop(queue)
            if form.distance(self.aim) < nearest.distance(self.aim):
                nearest = form
            if not apart:
                found = True
                yield self._config(changes)
            for change in self._candidates(start, changes):
                extended = {**changes, change[0]: change[1]}
                if frozenset(extended.items()) in seen:
                    continue
                seen.add(frozenset(extended.items()))
                child = self._form(extended)
                if child == form:
                    self.idle.add(change)
                if child is None or child == form or not child.comparable(self.aim):
                    continue
                if len(child.differences(self.aim)) <= apart:
                    heapq.heappush(queue, (child.distance(self.aim), next(order), extended, child))
        if not found:
            raise ModelError(self._mismatch(nearest))

    def _candidates(self, start: _ModelSignature, changes: Mapping[str, int]) -> Iterator[Change]:
        """Yield changes of one more field: to a size left by the cut, or scaled in proportion."""
        cuts = sorted(set(start.differences(self.aim)))
        for name, value in _numbers(self.model.config):
            if name in changes:
                continue
            direct = [new for old, new in cuts if value is None or value == old]
            scaled = [value * new // old for old, new in cuts if value and value * new % old == 0]
            changed = ((name, new) for new in dict.fromkeys((*direct, *scaled)))
            yield from (change for change in changed if change not in self.idle)

    def _config(self, changes: Mapping[str, int]) -> Any:
        config = copy.deepcopy(self.model.config)
        for name, value in changes.items():
            *path, last = name.split(".")
            holder = config
            for step in path:
                holder = holder[int(step)] if isinstance(holder, list) else getattr(holder, step)
            if isinstance(holder, list):
                holder[int(last)] = value
            else:
                setattr(holder, last, value)
        return config

    def _form(self, changes: Mapping[str, int]) -> _ModelSignature | None:
        """Return the signature of a new model with these changes; None if it can't be built."""
        try:
            with torch.device("meta"):
                return _ModelSignature.of(type(self.model)(self._config(changes)))
        except Exception:  # the library raises exceptions of every type for incompatible sizes
            return None

    def _mismatch(self, nearest: _ModelSignature) -> str:
        name = next(name for name, shape in self.aim.shapes.items() if shape != nearest.shapes[name])
        return (
            f"No configuration describes this {type(self.model).__name__}: {name} is {list(self.aim.shapes[name])}, in "
            f"the nearest one {list(nearest.shapes[name])}; cut all layers alike (scope local), or keep it with "
            "secateur.save."
        )


def _numbers(config: Any, path: str = "") -> Iterator[tuple[str, int | None]]:
    """Yield path and value of the integer and the empty (None) fields of a configuration."""
    items = enumerate(config) if isinstance(config, list) else vars(config).items()
    for key, value in items:
        if str(key).startswith("_"):
            continue
        if value is None or type(value) is int:
            yield f"{path}{key}", value
        elif isinstance(value, list) or hasattr(value, "to_diff_dict"):
            yield from _numbers(value, f"{path}{key}.")


def _write(model: Any, config: Any, folder: Path) -> None:
    own, model.config = model.config, config
    try:
        model.save_pretrained(folder)
    finally:
        model.config = own


def _opens(folder: Path, model: Any, example_inputs: ModelInputs, expected: list[Tensor]) -> bool:
    """Whether the folder opens as a model with the `expected` outputs."""
    try:
        opened = type(model).from_pretrained(folder, local_files_only=True, use_safetensors=True)
        opened = opened.to(device=model.device, dtype=model.dtype).eval()
        with same_draws(0, opened):
            return distance(expected, tensors_of(forward(opened, example_inputs))) <= PRETRAINED_TOLERANCE
    except (ModelError, RuntimeError, ValueError):
        return False


def _require_transformers(model: object) -> None:
    library = need("transformers", extra="transformers", for_="A folder for from_pretrained")
    if not isinstance(model, library.PreTrainedModel):
        raise InputError(
            f"{type(model).__name__} is no model of transformers: keep it with secateur.save, or use secateur.export."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress transformers' progress bars, logs and warnings within the block."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
