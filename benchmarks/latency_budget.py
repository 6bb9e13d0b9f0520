"""A latency budget against a MACs budget: models made to run in half the time on this machine.

ResNet-18 and MobileNet-V2 of torchvision, random weights, one image of 224 × 224: pruned until a measured pass takes
half as long as the dense one, and, beside it, until half the MACs are left. All models are then timed by turns.

    python benchmarks/latency_budget.py [--threads 1]
"""

from __future__ import annotations

import torch
import torchvision

from harness import parser, record
from secateur import prune
from secateur.core.tables import PERCENT, Column, Format, Table
from secateur.measure.latency import compare_latency, latency

NAME = "latency_budget"
MODELS = ("resnet18", "mobilenet_v2")
MS = Format(lambda value: f"{value:.1f}")


def main() -> None:
    given = parser(__doc__, data=False).parse_args()
    torch.set_num_threads(given.threads or 1)
    torch.manual_seed(0)
    image = torch.randn(1, 3, 224, 224)
    rows = []
    for name in MODELS:
        model = torchvision.models.get_model(name, weights=None).eval()
        dense = latency(model, image, (1,), seconds=3.0)[0].median * 1e3
        cuts = {
            "latency ×0.5": prune(
                model, image, granularity="channel", scope="global", budget={"latency_ms": dense / 2}
            ),
            "MACs ×0.5": prune(model, image, granularity="channel", scope="global", budget={"macs": 0.5}),
        }
        models = {"dense": model, **{asked: cut.model for asked, cut in cuts.items()}}
        timed = compare_latency(models, image, (1,), seconds=5.0)
        for asked, cut in cuts.items():
            assert cut.macs is not None
            assert cut.parameters is not None
            rows.append(
                {
                    "model": name,
                    "asked": asked,
                    "dense_ms": timed["dense"][0].median * 1e3,
                    "ms": timed[asked][0].median * 1e3,
                    "ratio": timed[asked][0].median / timed["dense"][0].median,
                    "macs": cut.macs[1] / cut.macs[0],
                    "parameters": cut.parameters[1] / cut.parameters[0],
                }
            )
    columns = [
        Column("model", "Model"),
        Column("asked", "Budget"),
        Column("dense_ms", "Dense, ms", MS),
        Column("ms", "Pruned, ms", MS),
        Column("ratio", "Time left", PERCENT),
        Column("macs", "MACs left", PERCENT),
        Column("parameters", "Parameters left", PERCENT),
    ]
    record(
        NAME,
        {"rows": rows},
        table=Table(columns, rows),
        command="python benchmarks/latency_budget.py",
        batch=1,
        seed=0,
    )


if __name__ == "__main__":
    main()
