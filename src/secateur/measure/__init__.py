"""Costs of a model: parameters and zeros, multiply-accumulates, bytes, and seconds with their spread.

`measure` returns all of them; `statistics`, `cost`, `size`, `latency` and `compare_latency` one each. None
changes the model: it runs in evaluation mode, and its own mode is restored.
"""

from __future__ import annotations

from secateur.measure.cost import Cost, LayerCost, cost
from secateur.measure.latency import Latency, compare_latency, latency
from secateur.measure.measurement import Measurement, measure
from secateur.measure.size import ModelSize, size
from secateur.measure.statistics import Statistics, TensorStatistics, statistics

__all__ = [
    "Cost",
    "Latency",
    "LayerCost",
    "Measurement",
    "ModelSize",
    "Statistics",
    "TensorStatistics",
    "compare_latency",
    "cost",
    "latency",
    "measure",
    "size",
    "statistics",
]
