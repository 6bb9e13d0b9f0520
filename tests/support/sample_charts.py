"""Each chart of a report, drawn from a small made-up study."""

from __future__ import annotations

import report_fixtures as study

from secateur.report import charts

SAFE_RATE = study.safe_rate()
ACCURACY = [{"method": "dense", "sparsity": 0.0, "top1": 0.981, "stage": "dense"}] + [
    {"method": method, "sparsity": amount, "top1": entry["result"]["top1"], "stage": stage}
    for method in study.METHODS
    for amount in study.AMOUNTS
    for stage, entry in zip(("as cut", "retrained"), study.history(method, amount)[1:], strict=True)
]
LAYERS = [
    {**layer, "run": method} for method in study.METHODS for layer in study.layers(method, study.AMOUNTS[0])
]
GROUPS = [
    {
        "run": run,
        "group": f"layers.{index}.weight",
        "units": 16 * 2**index,
        "kept": 12 * 2**index,
        "through": "…",
    }
    for run in "ab"
    for index in range(3)
]
WAYS = [
    {"panel": panel, "way": way, "sparsity": sparsity, "top1": 0.9 - sparsity * slope}
    for panel in ("group 0", "group 1")
    for slope, way in enumerate(("Whole", "Dropped", "Fused"))
    for sparsity in (0.3, 0.5)
]
CURVES = [{**row, "run": run} for run in "ab" for row in study.epochs("train", 0, 10, 0.5, 0.98)]
CHARTS = {
    "front": lambda: charts.front(SAFE_RATE),
    "kurtosis": lambda: charts.kurtosis(SAFE_RATE),
    "accuracy": lambda: charts.accuracy_against_sparsity(ACCURACY),
    "fusion": lambda: charts.accuracy_by_way([*WAYS, *WAYS]),
    "groups": lambda: charts.group_units(GROUPS),
    "layers": lambda: charts.layer_sparsity(LAYERS),
    "training": lambda: charts.training_curves(CURVES),
}
