"""Charts of pruning: rows of plain data in, one Vega-Altair chart out.

Each chart is defined once and serves as an interactive figure in the report and as an SVG or PNG file.
Fractions go in and percent is shown. A chart carries its description in words (`description`), so that it can
be read to those who don't see it, and no title: the caption around it is the title. Nothing here needs pandas
or a network.
"""

from secateur.report.charts.accuracy import accuracy_against_sparsity, averaged
from secateur.report.charts.connectivity import barrier_over_k, error_along_path
from secateur.report.charts.drawing import save
from secateur.report.charts.fusion import accuracy_by_way
from secateur.report.charts.groups import group_units
from secateur.report.charts.layers import layer_sparsity
from secateur.report.charts.lottery import tickets
from secateur.report.charts.safe_rate import front, kurtosis
from secateur.report.charts.training import training_curves

__all__ = [
    "accuracy_against_sparsity",
    "accuracy_by_way",
    "averaged",
    "barrier_over_k",
    "error_along_path",
    "front",
    "group_units",
    "kurtosis",
    "layer_sparsity",
    "save",
    "tickets",
    "training_curves",
]
