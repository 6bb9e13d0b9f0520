"""Models and training states on disk: safetensors for tensors, JSON for everything else, never pickle.

One file holds a model: its state dict, its masks at one bit a weight, and in the header a JSON description (what
built the model, mask shapes, which tensors are tied). Training checkpoints use the same container through
`write_tree` / `read_tree`, which split any nest of dicts, lists, numbers and tensors into the two halves. Files are
written whole or not at all, and a corrupt, truncated or foreign one is refused with a sentence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.errors import InputError, ModelError, StoreError
from secateur.files import existing_file, os_errors, writing
from secateur.masks import Masks
from secateur.prune import Pruned

FORMAT = "secateur"
VERSION = 1
MASK = "mask:"


@dataclass(frozen=True)
class Stored:
    """What a model file holds. `about` is the JSON its writer put beside the tensors."""

    state: dict[str, Tensor]
    masks: Masks
    about: Mapping[str, Any] = field(default_factory=dict)


def save(
    model: nn.Module | Pruned,
    path: str | os.PathLike[str],
    *,
    masks: Mapping[str, Tensor] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a model, or the result of `prune`, to one safetensors file, atomically.

    Masks of a `Pruned` result are stored with it, one bit a weight; `about` is any JSON to keep beside them.
    A model built by `secateur.build` also stores its name and arguments, so that `load` can build it again.
    Raises `StoreError` where the file can't be written.
    """
    if isinstance(model, Pruned):
        model, masks = model.model, model.masks if masks is None else masks
    packed = Masks(masks or {})
    tensors, tied = _untie(model.state_dict())
    header = {
        "about": dict(about or {}),
        "model": getattr(model, "secateur_spec", None),
        "masks": {name: list(mask.shape) for name, mask in packed.items()},
        "tied": tied,
    }
    tensors.update({MASK + name: bits for name, bits in packed.pack().items()})
    _write(path, "model", tensors, header)


def read(path: str | os.PathLike[str]) -> Stored:
    """Read a model file without building anything. Raises `StoreError` for one that `save` did not write."""
    tensors, header = _read(path, "model")
    packed = {name.removeprefix(MASK): tensors.pop(name) for name in list(tensors) if name.startswith(MASK)}
    try:
        masks = Masks.unpack(packed, {name: tuple(shape) for name, shape in header["masks"].items()})
        tensors.update({alias: tensors[name] for alias, name in header["tied"].items()})
        return Stored(tensors, masks, {**header["about"], "model": header["model"]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"Cannot read {path}: its description does not fit its tensors ({error}).") from None


def load(path: str | os.PathLike[str], into: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """Return the stored model: put `into` a fresh one of the same class, or built by the name it was saved with.

    `trust` allows a stored name of the form package.module:factory to be imported, which runs that package's
    code; without it such a file is refused unless `into` is given. Masked weights come back as the zeros they
    are; `load_masks` gives the masks themselves.
    Raises `StoreError` for a file that can't be read, `ModelError` for one that holds another model.
    """
    stored = read(path)
    model = into if into is not None else build_stored(stored.about.get("model"), path, trust=trust)
    put(stored.state, model, str(path))
    return model


def load_masks(path: str | os.PathLike[str]) -> Masks:
    """Return the masks stored beside a model; empty where it was saved without."""
    return read(path).masks


def build_stored(
    spec: Mapping[str, Any] | None, path: str | os.PathLike[str], *, trust: bool = False
) -> nn.Module:
    """Build the untrained model that `spec`, as stored in `path`, names."""
    from secateur import models

    if not spec:
        raise InputError(f"{path} does not say how to build its model: pass a fresh one with into=.")
    name = str(spec["name"])
    if models.is_user_code(name) and not trust:
        raise InputError(
            f"{path} names the code {name} to build its model: allow it with trust=True (--trust), "
            "or pass a fresh model with into=."
        )
    shape = spec.get("input_shape")
    return models.build(
        name,
        num_classes=spec.get("num_classes"),
        input_shape=tuple(shape) if shape else None,
        **models.without_pretraining(name, spec.get("args") or {}),
    )


def put(state: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    """Copy `state` into `model`, which must have exactly these tensors. Raises `ModelError` before touching it."""
    own = model.state_dict()
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    for kind, names in (
        ("lacks", missing),
        ("has the foreign", foreign),
        ("has another shape for", sorted(wrong)),
    ):
        if names:
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise ModelError(
                f"{source} {kind} {shown}: it is a checkpoint of another model than {type(model).__name__}."
            )
    model.load_state_dict(dict(state))


def write_tree(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> None:
    """Write a nest of dicts, lists, tensors and JSON values to one safetensors file, atomically."""
    tensors: dict[str, Tensor] = {}
    skeleton = _split(tree, tensors)
    _write(path, "tree", tensors, skeleton)


def read_tree(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_tree` wrote; tensors come back on the CPU, tuples as lists, int keys as ints."""
    tensors, skeleton = _read(path, "tree")
    try:
        tree: dict[str, Any] = _join(skeleton, tensors)
        return tree
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"Cannot read {path}: its description does not fit its tensors ({error}).") from None


def _write(path: str | os.PathLike[str], content: str, tensors: Mapping[str, Tensor], header: Any) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry only: safetensors writes several in a random order, and equal models should give equal files.
    metadata = {FORMAT: json.dumps({"version": VERSION, "content": content, "header": header})}
    with writing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=metadata)
        except SafetensorError as error:
            raise StoreError(
                f"Cannot write {path}: {error}; free some space or choose another path."
            ) from None


def _read(path: str | os.PathLike[str], content: str) -> tuple[dict[str, Tensor], Any]:
    source = existing_file(path)
    with os_errors(f"read {source}"):
        try:
            with safe_open(source, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get(FORMAT, "{}"))
                if about.get("content") != content:
                    raise StoreError(
                        f"Cannot read {source}: it is a safetensors file, but no {content} of secateur's; "
                        "secateur import takes checkpoints of other programs."
                    )
                if about["version"] > VERSION:
                    raise StoreError(
                        f"Cannot read {source}: a newer secateur wrote it; update with pip install -U secateur."
                    )
                return {name: file.get_tensor(name) for name in file.keys()}, about["header"]  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as error:
            kind = _sniff(source)
            raise StoreError(f"Cannot read {source}: {kind} ({error}).") from None


def _sniff(source: Path) -> str:
    """Say what a file that is no good safetensors file seems to be."""
    start = source.read_bytes()[:2] if source.stat().st_size < 2**20 else source.open("rb").read(2)
    if start in (b"PK", b"\x80\x02"):
        return "it looks like a PyTorch pickle, which secateur import can take in safely"
    return "it is not a safetensors file, or truncated or corrupt"


def _untie(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split a state dict into distinct tensors and alias → name for those that are the very same memory."""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        key = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            tied[name] = first[key]
        else:
            first[key] = name
            kept[name] = tensor
    return kept, tied


def _split(node: Any, tensors: dict[str, Tensor]) -> Any:
    """Replace every tensor of a nest by {"tensor": key} and collect it under that key."""
    if isinstance(node, Tensor):
        key = str(len(tensors))
        tensors[key] = node.clone() if _shares(node, tensors) else node
        return {"tensor": key}
    if isinstance(node, Mapping):
        return {"dict": [[key, _split(value, tensors)] for key, value in node.items()]}
    if isinstance(node, list | tuple):
        return {"list": [_split(value, tensors) for value in node]}
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    raise InputError(
        f"Cannot store a {type(node).__name__}: only numbers, text, lists, dicts and tensors are kept."
    )


def _shares(tensor: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    return any(
        tensor.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        for other in tensors.values()
    )


def _join(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    (kind, value), *_ = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _join(child, tensors) for key, child in value}
    if kind == "list":
        return [_join(child, tensors) for child in value]
    return value


def state_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts hold bit-identical tensors under the same names."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
