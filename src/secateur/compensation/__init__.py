"""Compensation: what makes up for what a cut takes away.

Reducing a group of n units to m is a pair of matrices: an *encoder*, [m, n], applied to what makes the units, and a
*decoder*, [n, m], applied to what reads them. Dropping is a selection and its transpose; the others differ only in the
numbers of these matrices and in where they get them from.

Each module registers its compensations; importing the package imports all of them.
"""

from secateur.compensation.registry import COMPENSATIONS, Case, Compensation, compensation
from secateur.core.discovery import import_modules

import_modules(__name__, __path__)  # they register

__all__ = [
    "COMPENSATIONS",
    "Case",
    "Compensation",
    "compensation",
]
