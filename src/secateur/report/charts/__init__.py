"""Charts of pruning: functions from rows of plain data to a Vega-Altair chart.

Each chart is defined once, for the interactive figure in the report and for SVG and PNG files. Fractions are
shown in percent. A chart has a `description` in words for screen readers, and no title: its caption is the title.
Neither pandas nor a network is needed.
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
