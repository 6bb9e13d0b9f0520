"""Random numbers keyed by their purpose: the same in every process, and after resuming."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.seeds import seed_of


def uniform(shape: Sequence[int], device: torch.device | str, *purpose: str | int) -> Tensor:
    """Return float32 numbers of `shape` in [0, 1) on `device`, a pure function of `purpose` and the device's type.

    >>> bool((uniform((3,), "cpu", "a", 0) == uniform((3,), "cpu", "a", 0)).all())
    True
    """
    stream = torch.Generator(device).manual_seed(seed_of(*purpose))
    return torch.rand(tuple(shape), generator=stream, device=device)
