"""Trained weights of torchvision in a model for another number of classes."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import PurePosixPath
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from secateur.core.errors import ModelError
from secateur.models.call import reason
from secateur.models.registry import Factory
from secateur.models.weights import OPTIONAL

OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")
"""Names of DenseNet's layers in torchvision's files: norm.1 is norm1 in the model."""
AUXILIARY = "aux"
"""Beginning of the names of heads that torchvision trains with, and that its builders drop."""


def reaching(name: str, weights: Any, factory: Factory) -> Factory:
    """Return `factory`, whose failures to fetch `weights` are a `ModelError` that says where they are looked for."""

    @functools.wraps(factory)
    def build(**arguments: Any) -> nn.Module:
        model: nn.Module = _fetching(name, weights, lambda: factory(**arguments))
        return model

    return build


def with_new_head(name: str, weights: Any, factory: Factory, trained: int) -> Factory:
    """Return a factory of the model with `weights` and a newly initialised head.

    Its arguments are those of the untrained architecture, `num_classes` among them. The head are the tensors whose
    shapes depend on `num_classes`; all others come from the weights, which know `trained` classes. Raises `ModelError`
    if they can't be fetched, or are of another model.
    """

    @functools.wraps(factory)
    def build(**arguments: Any) -> nn.Module:
        state = _fetching(name, weights, lambda: weights.get_state_dict(check_hash=True, weights_only=True))
        model = factory(**arguments)
        with torch.device("meta"):
            before = factory(**{**arguments, "num_classes": trained}).state_dict()
        _fill(model, _renamed(state), before, name)
        return model

    return build


def _fill(model: nn.Module, state: dict[str, Tensor], before: dict[str, Tensor], name: str) -> None:
    """Copy all of `state` but the head into the model; `before` has the shapes with the head of the weights."""
    own = model.state_dict()
    head = {key for key, value in own.items() if value.shape != before[key].shape}
    wrong = [
        key
        for key, value in before.items()
        if not key.endswith(OPTIONAL) and (key not in state or state[key].shape != value.shape)
    ]
    wrong += [key for key in state if key not in before and not key.startswith(AUXILIARY)]
    if wrong:
        raise ModelError(
            f"The weights of torchvision:{name} don't fit it ({', '.join(wrong[:3])}): leave out the arguments that "
            "change its sizes, or the weights."
        )
    model.load_state_dict({key: state[key] for key in own.keys() & state.keys() - head}, strict=False)


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {OLD_DENSENET.sub(r"\1", key): value for key, value in state.items()}


def _fetching(name: str, weights: Any, work: Callable[[], Any]) -> Any:
    """Do `work`, which reads the file of `weights` or fetches it. Raises `ModelError` if neither is possible."""
    try:
        with redirect_stdout(sys.stderr):  # torch tells there of a download
            return work()
    except (URLError, OSError) as error:
        file = PurePosixPath(urlparse(weights.url).path).name
        raise ModelError(
            f"The weights {file} of torchvision:{name} are neither in {torch.hub.get_dir()}/checkpoints nor to be had "
            f"from {weights.url} ({reason(error)}): put the file there, or leave the weights out."
        ) from error
