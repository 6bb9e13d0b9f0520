"""Loading of weights from checkpoints of other programs.

Names, shapes and values are checked before the first weight of the model changes. Files are read as data; one
that would run code on loading is refused.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from secateur.core.casts import check_casts
from secateur.core.errors import ModelError, StoreError
from secateur.core.files import existing_file, os_errors
from secateur.core.modules import torch_method
from secateur.core.naming import matched, unwrapped_name

NESTINGS = ("state_dict", "model_state_dict", "model")
OPTIONAL = "num_batches_tracked"


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Copy the weights in the file `path` into `model`, in place.

    `.safetensors` files are opened as such, all others as PyTorch checkpoints (weights only). The state dict
    may stand alone or under "state_dict", "model_state_dict" or "model"; what DataParallel, torch.compile and others
    put into names does not count, in the file and in the model. BatchNorm's `num_batches_tracked` may be missing, and
    so may one of two names of a shared tensor; all other names and shapes must match.

    Raises `StoreError` for a file that is missing, corrupt or holds more than tensors, and `ModelError` if the
    weights don't fit the model, aren't finite or would lose values in its dtypes. The model is then unchanged.
    """
    source = existing_file(path)
    state = _unwrap(_state_dict(_read(source), source), model)
    _check_fit(state, model, source)
    check_casts(state, model.state_dict(), str(source))
    _check_finite(state, source)
    torch_method(model, "load_state_dict", state, strict=False)


def _read(source: Path) -> Any:
    with os_errors(f"read {source}"):
        try:
            if source.suffix == ".safetensors":
                return safetensors.torch.load_file(source)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols
                return torch.load(source, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except SafetensorError as error:
            raise StoreError(f"Cannot read {source}: it is truncated, or no safetensors file.") from error
        except pickle.UnpicklingError as error:
            if "GLOBAL" in str(error):
                raise StoreError(
                    f"Cannot read {source}: it holds Python objects, which could run code on loading; "
                    "save the model's state_dict() alone."
                ) from error
            raise _corrupt(source) from error
        except Exception as error:
            raise _corrupt(source) from error


def _corrupt(source: Path) -> StoreError:
    return StoreError(f"Cannot read {source}: it is truncated, or no PyTorch checkpoint of tensors alone.")


def _state_dict(content: Any, source: Path) -> dict[str, Tensor]:
    nested = (
        content[key]
        for key in NESTINGS
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)
    )
    state = next(nested, content)
    if isinstance(state, Mapping) and state and all(map(_plain, state.values())):
        return {str(key): value for key, value in state.items()}
    raise StoreError(
        f"Cannot read {source}: it holds no state dict of dense tensors, bare or under {', '.join(NESTINGS)}."
    )


def _plain(value: object) -> bool:
    if not isinstance(value, Tensor):
        return False
    return value.layout is torch.strided and not (value.is_quantized or value.is_meta)


def _unwrap(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give names with or without the prefixes of wrappers those of the model."""
    known = matched(state, torch_method(model, "state_dict"), unwrapped_name)
    return {known.get(key, unwrapped_name(key)): value for key, value in state.items()}


def _check_fit(state: dict[str, Tensor], model: nn.Module, source: Path) -> None:
    own = torch_method(model, "state_dict", keep_vars=True)
    given = {id(own[key]) for key in state if key in own}
    misshapen = [
        f"{key} is {_shape(value)} instead of {_shape(own[key])}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    missing = [
        f"{key} is missing"
        for key, value in own.items()
        if key not in state and id(value) not in given and not key.endswith(OPTIONAL)
    ]
    unexpected = [f"{key} is unknown" for key in state if key not in own]
    if problems := misshapen + missing + unexpected:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"The weights in {source} don't fit the model ({', '.join(problems[:3])}{more}): "
            "is this a checkpoint of another model, or of another number of classes?"
        )


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"


def _check_finite(state: dict[str, Tensor], source: Path) -> None:
    for key, value in state.items():
        if not (value.float() if value.dtype.itemsize == 1 else value).isfinite().all():
            raise ModelError(
                f"The weights in {source} hold NaN or infinity in {key}: use a checkpoint from before."
            )
