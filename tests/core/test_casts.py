"""Copies from one dtype to another: rounding is allowed, loss is not."""

from __future__ import annotations

import pytest
import torch

from secateur.core.casts import check_casts
from secateur.core.errors import ModelError

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
FITTING = [
    (torch.tensor([0.1], dtype=F64), F32),
    (torch.tensor([0.1], dtype=F32), BF16),
    (torch.tensor([1e38], dtype=F32), BF16),
    (torch.tensor([1e-300], dtype=F64), F32),
    (torch.tensor([2**31 - 1]), torch.int32),
    (torch.tensor([1e300], dtype=F64), F64),
    (torch.zeros(0, dtype=F64), F16),
    (torch.tensor([True]), torch.int64),
]
LOSING = [
    (torch.tensor([1e300], dtype=F64), F32),
    (torch.tensor([7e4], dtype=F32), F16),
    (torch.tensor([1e39], dtype=F64), BF16),
    (torch.tensor([1j], dtype=torch.complex64), F32),
    (torch.tensor([1.0], dtype=F32), torch.complex64),
    (torch.tensor([3]), F32),
    (torch.tensor([True]), F32),
    (torch.tensor([0.5]), torch.int64),
    (torch.tensor([2**31]), torch.int32),
    (torch.ones(2).to(torch.float8_e4m3fn), F32),
    (torch.ones(2).to(torch.float8_e5m2), BF16),
]


@pytest.mark.parametrize(("given", "wanted"), FITTING)
def test_casts_that_keep_values(given: torch.Tensor, wanted: torch.dtype) -> None:
    check_casts({"w": given}, {"w": torch.empty(given.shape, dtype=wanted)}, "file")


@pytest.mark.parametrize(("given", "wanted"), LOSING)
def test_casts_that_lose_values_are_refused(given: torch.Tensor, wanted: torch.dtype) -> None:
    with pytest.raises(ModelError, match=r"^file holds w as \w+, and the model as \w+: .*\.$"):
        check_casts({"w": given}, {"w": torch.empty(given.shape, dtype=wanted)}, "file")
