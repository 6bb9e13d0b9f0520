"""Network slimming on CIFAR-10: what training with a penalty on BatchNorm's scales changes about them, and about cuts.

A VGG-11 is trained without and with the penalty, from the same initialisation and in the same order; then 50, 60 and
70 % of all channels are cut by the smallest scales, over all layers together, and the smaller network is retrained.
A scale moves by λ times the sum of all learning rates, so that a schedule which is shorter than the paper's needs a
larger λ. Results are recorded as they come, and a repeated call continues. The chart is docs/images/slimming.svg.

    python benchmarks/slimming.py --data-root DIR [--train-subset 20000] [--threads 2] [--accelerator cuda]
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import altair as alt
import torch
from torch import Tensor, nn

from harness import earlier_rows, has, parser, record
from secateur import build, evaluate, load_data, prune, train
from secateur.core.seeds import seed_of
from secateur.core.tables import PERCENT, Column, Format, Table
from secateur.report.charts import save
from secateur.report.charts.drawing import dressed, inline

NAME = "slimming"
STRENGTHS = (0.0, 3e-3, 1e-2)
AMOUNTS = (0.0, 0.5, 0.6, 0.7)
BINS, WIDEST = 40, 1.6
"""Bins of the histogram of |γ|, and where it ends; the last bin holds all above."""
TRAIN: dict[str, Any] = {
    "epochs": 20,
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 1e-4,
    "warmup": "1ep",
    "seed": 0,
}
RETRAIN: dict[str, Any] = {"epochs": 10, "batch_size": 128, "lr": 0.05, "weight_decay": 1e-4, "seed": 0}
PICTURE = Path(__file__).parent.parent / "docs/images/slimming"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--train-subset", type=int, default=None, help="train on so many images")
    options.add_argument("--accelerator", default="auto", help="where to train")
    options.add_argument("--precision", default="bf16-mixed", help="precision of training")
    options.add_argument("--width", type=float, default=0.5, help="width of the VGG")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    data = load_data("cifar10", given.data_root, subset=(given.train_subset, None))
    where = {"accelerator": given.accelerator, "precision": given.precision}
    settings: dict[str, Any] = {
        "width": given.width,
        "train": {**TRAIN, **where},
        "retrain": {**RETRAIN, **where},
        "images": len(data.train),
    }
    rows = earlier_rows(NAME, settings)
    facts = {
        "data": f"CIFAR-10, {len(data.train):,} training and {len(data.test):,} test images",
        "fingerprint": data.fingerprint(),
        "settings": settings,
    }
    for strength in STRENGTHS:
        missing = [amount for amount in AMOUNTS if not has(rows, strength=strength, cut=amount)]
        if not missing:
            continue
        torch.manual_seed(seed_of("init", 0))
        dense = build("vgg11_bn", num_classes=10, input_shape=data.input_shape, width=given.width)
        method: dict[str, Any] = {"method": "slimming", "options": {"strength": strength}} if strength else {}
        train(dense, data, **settings["train"], **method)
        for amount in missing:
            cut = prune(
                copy.deepcopy(dense).cpu(),
                data.example(2),
                granularity="channel",
                criterion="bn_scale",
                scope="global",
                amount=amount,
            )
            assert cut.parameters is not None
            assert cut.macs is not None
            row: dict[str, Any] = {
                "strength": strength,
                "cut": amount,
                "parameters": cut.parameters[1] / cut.parameters[0],
                "macs": cut.macs[1] / cut.macs[0],
                "as_cut": evaluate(cut.model, data)["top1"],
            }
            if amount:
                train(cut.model, data, **settings["retrain"])
                row["retrained"] = evaluate(cut.model, data)["top1"]
            else:
                row["scales"] = scales(dense).histc(BINS, 0, WIDEST).tolist()
            rows.append(row)
            print({key: value for key, value in row.items() if key != "scales"}, flush=True)
            keep(rows, facts)


def scales(model: nn.Module) -> Tensor:
    """Return |γ| of all BatchNorm layers, at most `WIDEST`."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return torch.cat([norm.weight.detach().abs().float().cpu() for norm in norms]).clamp(max=WIDEST)


def keep(rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    rows.sort(key=lambda row: (row["strength"], row["cut"]))
    columns = [
        Column("strength", "λ", Format(lambda value: f"{value:g}")),
        Column("cut", "Channels cut", PERCENT),
        Column("parameters", "Parameters left", PERCENT),
        Column("macs", "MACs left", PERCENT),
        Column("as_cut", "Top-1 as cut", PERCENT),
        Column("retrained", "retrained", PERCENT),
    ]
    record(NAME, {"rows": rows}, table=Table(columns, rows), command="python benchmarks/slimming.py", **facts)
    save(picture(rows), PICTURE, ["svg"])


def picture(rows: list[dict[str, Any]]) -> alt.FacetChart:
    """Draw the histograms of |γ|, one above the other."""
    step = WIDEST / BINS
    bars = [
        {"panel": f"λ = {row['strength']:g}", "low": at * step, "high": (at + 1) * step, "count": count}
        for row in rows
        for at, count in enumerate(row.get("scales", ()))
    ]
    panels = list(dict.fromkeys(bar["panel"] for bar in bars))
    chart: alt.FacetChart = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=alt.X("low:Q", title="|γ| after training", bin="binned").axis(format=".1f", grid=False),
            x2="high",
            y=alt.Y("count:Q", title="Channels"),
        )
        .properties(width=480, height=120)
        .facet(facet=alt.Facet("panel:N", title=None, sort=panels), data=inline(bars), columns=1)
    )
    return dressed(chart, f"Histograms of the scales of all batch normalisations for {', '.join(panels)}.")


if __name__ == "__main__":
    main()
