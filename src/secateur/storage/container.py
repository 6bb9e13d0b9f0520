"""The container of models and training states: one safetensors file with a JSON description in its header.

Files are written atomically, never hold pickle, and equal content gives equal bytes. A corrupt, truncated, foreign or
newer file is refused with a sentence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.parameter import is_lazy

from secateur.core.errors import InputError, StoreError
from secateur.core.files import existing_file, os_errors, writing

CONTAINER_FORMAT = "secateur"
CONTAINER_VERSION = 1
NONSENSE = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError)
"""Exceptions raised by reading an invalid description."""


def dense(value: object) -> TypeGuard[Tensor]:
    """Whether `value` is a strided, unquantized tensor with values (not lazy, not on the meta device)."""
    if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta:
        return False
    return value.layout is torch.strided and not value.is_quantized


def write_container(
    path: str | os.PathLike[str], content: str, tensors: Mapping[str, Tensor], header: Any
) -> None:
    """Write dense tensors and a JSON description, as a file of the kind `content`, atomically.

    Raises `StoreError` if the file can't be written, `InputError` if `header` is no JSON or a dtype is unsupported.
    """
    plain: dict[str, Tensor] = {}
    stored: set[int] = set()  # safetensors refuses tensors that share memory
    for name, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        plain[name] = whole.clone() if whole.untyped_storage().data_ptr() in stored else whole
        stored.add(whole.untyped_storage().data_ptr())
    # One entry only: safetensors writes several in a random order, and equal models should give equal files.
    try:
        metadata = {
            CONTAINER_FORMAT: json.dumps({"version": CONTAINER_VERSION, "content": content, "header": header})
        }
    except NONSENSE as error:
        raise InputError(f"Cannot write {path}: its description is not JSON ({error}).") from error
    with writing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=metadata)
        except SafetensorError as error:
            raise StoreError(
                f"Cannot write {path}: {error}; free some space or choose another path."
            ) from None
        except KeyError as error:
            raise InputError(f"Cannot write {path}: safetensors holds no tensors of {error}.") from None


def read_container(path: str | os.PathLike[str], content: str) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors, on the CPU, and the description of a file of the kind `content`.

    Raises `StoreError` for any other file.
    """
    source = existing_file(path)
    with os_errors(f"read {source}"):
        try:
            with safe_open(source, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get(CONTAINER_FORMAT, "{}"))
                if about.get("content") != content:
                    raise StoreError(
                        f"Cannot read {source}: it is a safetensors file, but no {content} of secateur's; "
                        "secateur import takes checkpoints of other programs."
                    )
                if about["version"] > CONTAINER_VERSION:
                    raise StoreError(
                        f"Cannot read {source}: a newer secateur wrote it; update with pip install -U secateur."
                    )
                return {name: file.get_tensor(name) for name in file.keys()}, about["header"]  # noqa: SIM118
        except (SafetensorError, *NONSENSE) as error:
            raise StoreError(f"Cannot read {source}: {_sniff(source)} ({error}).") from None


def _sniff(source: Path) -> str:
    """Return a guess at the nature of an unreadable file, by its first bytes."""
    with source.open("rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02"):
        return "it looks like a PyTorch pickle, which secateur import can take in safely"
    return "it is not a safetensors file, or truncated or corrupt"
