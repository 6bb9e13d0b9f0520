"""Compensation: what makes up for what a cut takes away.

Reducing a group of n units to m is a pair of matrices: an *encoder*, [m, n], applied to what makes the units, and a
*decoder*, [n, m], applied to what reads them. Dropping is a selection and its transpose; the others differ only in the
numbers of these matrices and in where they get them from.
"""

from secateur.compensation import fuse, reconstruct, weights
from secateur.compensation.registry import COMPENSATIONS, Case, Compensation, compensation

__all__ = [
    "COMPENSATIONS",
    "Case",
    "Compensation",
    "compensation",
    "fuse",
    "reconstruct",
    "weights",
]
