"""Records of comparisons of dropping and fusing: file format, table and chart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from secateur.core.options import MACHINE
from secateur.core.tables import COUNT, MILLISECONDS, PERCENT, POINTS, SI, Column, Table, change
from secateur.steps.fusing import ORIGINAL, WAYS

FUSION_FILE = "fusion.json"
TITLES = {
    ORIGINAL: "Whole",
    "default_pruning": "Dropped",
    "intra_fusion": "Fused",
    "reconstruction": "Reconstructed",
}
TELLING = {"model": "Model", "data": "Data", "criterion": "Criterion", "seed": "Seed", "run": "Run"}
"""Fields shown as columns if they differ between records: field → title."""

FUSION_IDENTITY = ("weights", "criterion", "seed", "settings", "group_index", "sparsity")
"""Fields that identify a cell: the model, the settings, the group and the sparsity."""
FusionRecord: TypeAlias = Mapping[str, Any]
Charts = Annotated[
    str | None, Field(description="folder to write charts to, as SVG and PNG", json_schema_extra=MACHINE)
]


def published(record: FusionRecord) -> dict[str, Any]:
    """Return a record with the published names beside ours.

    `group_idx` and `importance_criteria`; for each model `accuracy_percent`, `inference_time_ms` by device and, for
    the smaller ones, `parameter_reduction_percentage` and `speed_improvement`, in percent of the whole model's time on
    the first device.
    """
    whole = record[ORIGINAL]
    told = {"group_idx": record["group_index"], "importance_criteria": record["criterion"]}
    made = {way: {**record[way], **_reductions(record[way], whole)} for way in WAYS if way in record}
    models = {ORIGINAL: whole, **made}
    return {**record, **told, **{way: {**model, **_in_percent(model)} for way, model in models.items()}}


def _in_percent(model: Mapping[str, Any]) -> dict[str, Any]:
    times = {device: 1e3 * seconds for device, seconds in model["inference_time"].items()}
    return {"accuracy_percent": 100 * model["accuracy"], "inference_time_ms": times}


def _reductions(model: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, float | None]:
    times, before = model["inference_time"], whole["inference_time"]
    device = next((device for device in times if before.get(device)), None)
    return {
        "parameter_reduction_percentage": 100 * (1 - model["parameters"] / max(1, whole["parameters"])),
        "speed_improvement": None if device is None else 100 * (1 - times[device] / before[device]),
    }


def whole(records: Sequence[FusionRecord], cell: FusionRecord) -> dict[str, float]:
    """Return the accuracy of the whole model from a record of the same model and settings, empty if none has it."""
    names = ("weights", "seed", "settings")
    same = (record for record in records if all(record[name] == cell[name] for name in names))
    return next(({ORIGINAL: record[ORIGINAL]["accuracy"]} for record in same), {})


def is_record(record: Any) -> bool:
    """Whether a value read from JSON is a record."""
    return (
        isinstance(record, dict)
        and {*FUSION_IDENTITY, "group_name", ORIGINAL} <= set(record)
        and bool(set(WAYS) & set(record))
        and all(_is_number(record[name]) for name in ("group_index", "sparsity"))
        and all(_is_measured(record[way]) for way in (ORIGINAL, *WAYS) if way in record)
    )


def _is_measured(entry: Any) -> bool:
    needed = {"parameters", "macs", "accuracy", "inference_time"}
    return (
        isinstance(entry, dict)
        and needed <= set(entry)
        and isinstance(entry["inference_time"], dict)
        and all(_is_number(entry[name]) for name in needed - {"inference_time"})
        and all(_is_number(seconds) for seconds in entry["inference_time"].values())
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def table(records: Sequence[FusionRecord]) -> Table:
    """Return one row for each group and sparsity, in the order of `ordered`."""
    devices = list(
        dict.fromkeys(device for record in records for device in record[ORIGINAL]["inference_time"])
    )
    columns = [
        *(Column(key, TELLING[key]) for key in varying(records)),
        Column("group", "Group"),
        Column("sparsity", "Cut", PERCENT),
        *(Column(way, title, PERCENT) for way, title in TITLES.items()),
        Column("gained", "Fused − dropped", POINTS),
        Column("parameters", "Parameters", change(COUNT), spread="parameters_before"),
        Column("macs", "MACs", change(SI), spread="macs_before"),
        *(
            Column(f"time_{device}", f"Time, {device}", change(MILLISECONDS), spread=f"time_{device}_before")
            for device in devices
        ),
    ]
    return Table(columns, [_row(record) for record in ordered(records)]).without_empty_columns()


def ordered(records: Sequence[FusionRecord]) -> list[FusionRecord]:
    """Return the records model by model, criterion by criterion, group by group."""
    return sorted(
        records, key=lambda r: (*(str(r.get(key)) for key in TELLING), r["group_index"], r["sparsity"])
    )


def varying(records: Sequence[FusionRecord]) -> list[str]:
    """Return the fields of `TELLING` that differ between records."""
    return [key for key in TELLING if len({str(record.get(key)) for record in records}) > 1]


def draw(records: Sequence[FusionRecord], folder: Path) -> list[Path]:
    """Write the chart of accuracies as SVG and PNG, and return the paths."""
    from secateur.report.charts import accuracy_by_way, save

    return save(accuracy_by_way(_points(ordered(records))), folder / "fusion")


def _row(record: FusionRecord) -> dict[str, Any]:
    made = {way: record[way] for way in WAYS if way in record}
    small, whole = next(iter(made.values())), record[ORIGINAL]
    accuracy = {way: measured["accuracy"] for way, measured in made.items()}
    both = {"intra_fusion", "default_pruning"} <= set(accuracy)
    row = {
        **{key: record.get(key) for key in TELLING},
        "group": f"{record['group_index']} ({record['group_name']})",
        "sparsity": record["sparsity"],
        ORIGINAL: whole["accuracy"],
        **accuracy,
        "gained": accuracy["intra_fusion"] - accuracy["default_pruning"] if both else None,
    }
    for name in ("parameters", "macs"):
        row |= {name: small[name], f"{name}_before": whole[name]}
    for device, seconds in small["inference_time"].items():
        row |= {
            f"time_{device}": seconds,
            f"time_{device}_before": whole["inference_time"].get(device),
        }
    return row


def _points(records: Sequence[FusionRecord]) -> Iterator[dict[str, Any]]:
    """Yield the points of the chart; seeds and runs of one panel are averaged."""
    told = [key for key in varying(records) if key not in ("seed", "run")]
    for record in records:
        words = [
            f"group {record['group_index']}",
            record["group_name"],
            *(str(record.get(key)) for key in told),
        ]
        for way, title in TITLES.items():
            if way in record:
                yield {
                    "panel": ", ".join(words),
                    "way": title,
                    "sparsity": record["sparsity"],
                    "top1": record[way]["accuracy"],
                }
