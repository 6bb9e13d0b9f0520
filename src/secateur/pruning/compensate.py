"""Compensation of a cut, followed by the correction of means and variances."""

from __future__ import annotations

import warnings
from typing import Any

from secateur.compensation.correct import correct
from secateur.compensation.registry import COMPENSATIONS, Case
from secateur.core.errors import SecateurError, SecateurWarning
from secateur.graph.coupling import Coupling
from secateur.pruning.settings import Settings


def make_up(case: Case, coupling: Coupling, settings: Settings) -> dict[str, Any]:
    """Carry out the compensation of a cut and its correction, and return their records, name → value.

    The record of a compensation that selects the cut weights itself has their `Masks` under "masks".
    """
    compensate = COMPENSATIONS[settings.compensation].function(str(settings.granularity))
    record = compensate(case, **settings.compensation_options)
    if case.corrects and "corrected" not in record:
        try:
            record["corrected"] = correct(case, coupling)
        except SecateurError as error:
            if settings.correct:
                raise
            record["not corrected"] = str(error)
            warnings.warn(f"Means and variances were not corrected: {error}", SecateurWarning, stacklevel=2)
    return record
