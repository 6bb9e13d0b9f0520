"""Random numbers that depend on what they are for: the same in every process, and after a continuation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.core.seeds import seed_of


def uniform(shape: Sequence[int], device: torch.device | str, *purpose: str | int) -> Tensor:
    """Draw float32 numbers in [0, 1) on `device`, from a stream of their own, named by `purpose`.

    >>> bool((uniform((3,), "cpu", "a", 0) == uniform((3,), "cpu", "a", 0)).all())
    True
    """
    stream = torch.Generator(device).manual_seed(seed_of(*purpose))
    return torch.rand(tuple(shape), generator=stream, device=device)
