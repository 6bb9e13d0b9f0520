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

from secateur.core.generators import generators_of


def seed_of(*parts: str | int) -> int:
    """Hash `parts` to a seed in [0, 2⁶³): the same on every machine and in every process.

    >>> seed_of("order", 0, 1) == seed_of("order", 0, 1) != seed_of("order", 0, 2)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def same_draws(seed: int = 0, *owners: object) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python by `seed` while the block runs, then restore their states.

    For code of other packages, which draws from the global generators. So it is with the generators that `owners`
    hold, which are modules with their submodules.
    """
    with _global_states_kept(), generators_kept(*owners):
        seed_global(seed)
        for owner in owners:
            for kind, each in generators_of(owner):
                kind.seed(each, seed)
        yield


def seed_global(seed: int) -> None:
    """Seed the global generators of torch, on every device in use, NumPy and Python."""
    torch.default_generator.manual_seed(seed)
    if _on_gpu():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def generators_kept(*owners: object) -> Iterator[None]:
    """Restore the states of the generators that `owners`, modules or data loaders, hold."""
    kept = [(kind, each, kind.read(each)) for owner in owners for kind, each in generators_of(owner)]
    try:
        yield
    finally:
        for kind, each, state in kept:
            kind.write(each, state)


@contextmanager
def _global_states_kept() -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if _on_gpu() else []
    metal = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
            if metal is not None:
                torch.mps.set_rng_state(metal)


def _on_gpu() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
