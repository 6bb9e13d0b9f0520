"""Write a smaller transformers model as a folder that `from_pretrained` opens.

Such a folder says with a configuration how large the model is, so that only a model whose layers are alike in their
sizes can be written. Which fields of the configuration say so is found by trying: fields are given the sizes that the
cut left until a fresh model of that configuration has the shapes of the smaller one and computes the same.
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
from secateur.graph.trace import tensors_of
from secateur.measure.inputs import ModelInputs, forward
from secateur.shrink.verify import distance

Change: TypeAlias = tuple[str, int]
"""A field of a configuration, as a path, and its new value."""

TRIES = 400
"""How many configurations are tried before a model is given up."""

PRETRAINED_TOLERANCE = 1e-6
"""How far outputs may be apart: the same operators run on the same numbers."""


def save_pretrained(model: nn.Module, example_inputs: ModelInputs, folder: str | os.PathLike[str]) -> None:
    """Write a transformers model that was made smaller to `folder`, for the library's own `from_pretrained`.

    The folder must not exist, or be empty. It appears once it has been opened again as a model of the same class and
    has computed the same on `example_inputs`. Tokenizers and the like are not part of it.

    Raises `InputError` for a model that isn't transformers', `MissingExtraError` where that isn't installed,
    `ModelError` for a model that no configuration describes, naming the layer that differs, and `StoreError` where
    the folder can't be written.
    """
    _require_transformers(model)
    target = Path(folder)
    with os_errors(f"write {target}"):
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StoreError(f"Cannot write {target}: it holds something already; choose another folder.")
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.part")
    with evaluating(model), torch.no_grad(), _quiet(), os_errors(f"write {target}"):
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
    """What can be told of a model without its values: the shapes of its tensors, the numbers its modules hold."""

    shapes: Mapping[str, tuple[int, ...]]
    numbers: Mapping[str, float] = field(repr=False)

    @classmethod
    def of(cls, model: nn.Module) -> _ModelSignature:
        return cls(
            {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
            {
                f"{path}:{key}": value
                for path, module in model.named_modules()
                for key, value in vars(module).items()
                if type(value) in (int, float)
            },
        )

    def comparable(self, other: _ModelSignature) -> bool:
        return self.shapes.keys() == other.shapes.keys() and all(
            len(shape) == len(other.shapes[name]) for name, shape in self.shapes.items()
        )

    def differences(self, other: _ModelSignature) -> list[tuple[int, int]]:
        """Return the sizes that differ, here and there."""
        pairs = (
            pair for name in self.shapes for pair in zip(self.shapes[name], other.shapes[name], strict=True)
        )
        return [(here, there) for here, there in pairs if here != there]

    def distance(self, other: _ModelSignature) -> tuple[int, int]:
        """Return how many sizes and how many numbers differ."""
        numbers = sum(self.numbers[key] != other.numbers.get(key) for key in self.numbers)
        return len(self.differences(other)), numbers


class _Search:
    """Finds configurations of which a fresh model has the shapes of `model`, the likeliest first."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.aim = _ModelSignature.of(model)
        self.idle: set[Change] = set()

    def configurations(self) -> Iterator[Any]:
        """Yield them. Raises `ModelError`, naming what differs, where there is none."""
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
            raise ModelError(self._says_what_differs(nearest))

    def _candidates(self, start: _ModelSignature, changes: Mapping[str, int]) -> Iterator[Change]:
        """Yield what one more field may be set to: a size the cut left, or less in proportion."""
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
        """Return the form of a fresh model; None where there is no model of such a configuration."""
        try:
            with torch.device("meta"):
                return _ModelSignature.of(type(self.model)(self._config(changes)))
        except Exception:  # whatever a library says of sizes that do not go together
            return None

    def _says_what_differs(self, nearest: _ModelSignature) -> str:
        name = next(name for name, shape in self.aim.shapes.items() if shape != nearest.shapes[name])
        return (
            f"No configuration describes this {type(self.model).__name__}: {name} is {list(self.aim.shapes[name])}, in "
            f"the nearest one {list(nearest.shapes[name])}; cut all layers alike (scope local), or keep it with "
            "secateur.save."
        )


def _numbers(config: Any, path: str = "") -> Iterator[tuple[str, int | None]]:
    """Yield the whole numbers of a configuration, and the fields left empty, with their paths."""
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
    """Whether the folder opens as a model that computes what is expected."""
    try:
        opened = type(model).from_pretrained(folder, local_files_only=True, use_safetensors=True)
        opened = opened.to(device=model.device, dtype=model.dtype).eval()
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
    """Keep transformers' bars and advice off the screen."""
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
