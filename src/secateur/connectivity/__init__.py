"""Linear mode connectivity: the loss barrier on the straight line between two trained networks.

`path` measures error and loss on the line from one model's tensors to another's, `barrier` its highest rise above the
ends (Frankle, Dziugaite, Roy & Carbin 2020, *Linear Mode Connectivity and the Lottery Ticket Hypothesis*).
"""

from secateur.connectivity.children import Children
from secateur.connectivity.interpolation import Between
from secateur.connectivity.path import MARGIN, PATH_POINTS, PathRow, barrier, is_stable, path, rise
from secateur.connectivity.statistics import STATISTICS, estimate, told

__all__ = [
    "MARGIN",
    "PATH_POINTS",
    "STATISTICS",
    "Between",
    "Children",
    "PathRow",
    "barrier",
    "estimate",
    "is_stable",
    "path",
    "rise",
    "told",
]
