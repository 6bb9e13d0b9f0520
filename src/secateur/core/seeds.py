"""Seeds derived from purpose and position, independent of earlier draws.

Every random number of the package comes from a generator seeded by `seed_of` its purpose and position ("order", seed,
epoch), so that a resumed run draws exactly the numbers of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(*parts: str | int) -> int:
    """Hash `parts` to a seed in [0, 2⁶³): the same on every machine and in every process.

    >>> seed_of("order", 0, 1) == seed_of("order", 0, 1) != seed_of("order", 0, 2)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def same_draws(seed: int = 0) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python by `seed` while the block runs, then restore their states.

    For code of other packages, which draws from the global generators.
    """
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if on_gpu else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
