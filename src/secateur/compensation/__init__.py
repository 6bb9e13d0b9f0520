"""Compensation: updates of the remaining weights that reduce the error of a cut.

A reduction of a group of n units to m is a pair of matrices: an *encoder*, [m, n], applied to the weights that produce
the units, and a *decoder*, [n, m], applied to the weights that read them. Dropping is a selection and its transpose;
other compensations compute other entries. Every module of this package registers its compensations.
"""

from secateur.compensation.registry import COMPENSATIONS, Case, Compensation, compensation
from secateur.core.discovery import import_modules

import_modules(__name__, __path__)

__all__ = [
    "COMPENSATIONS",
    "Case",
    "Compensation",
    "compensation",
]
