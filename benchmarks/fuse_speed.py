"""How long fusing all groups of a model takes, and how long it takes neuron by neuron, in one process.

Half of the channels of every group. Timed is what follows the cut: features, plans and new weights. The other way
does the same for the same groups and plans by `ot.emd`, but gathers features, distances and new weights with Python
loops over neurons, as code that works layer by layer tends to. Each time is the best of `REPEATS`; the loops run once.
Each model is recorded as it comes, and a repeated call does what is missing.

    python benchmarks/fuse_speed.py [--threads 1] [--models resnet18 resnet50 vit_b_16]
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import ot
import torch
import torchvision
from torch import Tensor, nn

from harness import earlier_rows, has, parser, record
from secateur import analyze
from secateur.compensation import COMPENSATIONS, Case
from secateur.compensation.codable import Codable
from secateur.compensation.coder import places
from secateur.core.tables import COUNT, Column, Format, Table
from secateur.graph.cut import Cut
from secateur.importance.folding import chains, folded
from secateur.shrink.apply import apply
from secateur.shrink.make import plan_for
from secateur.shrink.plan import named_tensors

NAME = "fuse_speed"
MODELS = {"resnet18": 64, "resnet50": 64, "vit_b_16": 224}
REPEATS = 3
SECONDS = Format(lambda value: f"{value:.2f}")


def main() -> None:
    given = parser(__doc__, data=False)
    given.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    arguments = given.parse_args()
    torch.set_num_threads(arguments.threads or 1)
    np.add(ot.unif(2), 0)  # POT is imported before the clock runs
    rows = earlier_rows(NAME)
    for name in arguments.models:
        if has(rows, model=name):
            continue
        case = halved(name)
        fuse = COMPENSATIONS["fuse"].functions["channel"]
        ours = min(seconds(partial(fuse, case)) for _ in range(REPEATS))
        loops = seconds(partial(neuron_by_neuron, case))
        cut = [group for group in case.groups if not bool(case.kept(group).all())]
        widest = max(group.units for group in cut)
        rows.append(
            {
                "model": name,
                "groups": len(cut),
                "widest": widest,
                "secateur": ours,
                "loops": loops,
                "ratio": loops / ours,
            }
        )
        print(rows[-1], flush=True)
        columns = [
            Column("model", "Model"),
            Column("groups", "Groups", COUNT),
            Column("widest", "Units of the widest", COUNT),
            Column("secateur", "secateur, s", SECONDS),
            Column("loops", "Neuron by neuron, s", SECONDS),
            Column("ratio", "Ratio", Format(lambda value: f"{value:.1f}")),
        ]
        record(
            NAME,
            {"rows": rows},
            table=Table(columns, rows),
            command="python benchmarks/fuse_speed.py",
            repeats=REPEATS,
        )


def halved(name: str) -> Case:
    """Cut every second unit of every group that can be coded."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    groups = analyze(model, torch.randn(1, 3, MODELS[name], MODELS[name]))
    codable = Codable(groups.coupling)
    chosen = tuple(group for group in groups.free if codable.refused(group) is None)
    cut = Cut.of(groups.coupling, [(group, np.arange(group.units) % 2 == 0) for group in chosen])
    plan, failures = plan_for(model, cut)
    assert not failures, failures
    scores = {group.name: torch.ones(group.units) for group in chosen}
    return Case(model, apply(model, plan), groups.coupling.program, None, 0, False, cut, plan, chosen, scores)


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@torch.no_grad()
def neuron_by_neuron(case: Case) -> nn.Module:
    """Fuse the groups one after the other, every neuron by itself."""
    assert case.cut is not None
    model = copy.deepcopy(case.model)
    tensors = named_tensors(model)
    counting = folded(dict(model.named_parameters()), tensors, chains(case.cut.coupling))
    for group in case.groups:
        kept = case.kept(group).nonzero().flatten().tolist()
        members = [member for member in group.members if member.name in counting]
        made = [(counting[m.name].movedim(m.dim, 0), places(m, group.units)) for m in members]
        points = [feature(made, unit) for unit in range(group.units)]
        cost = np.empty((group.units, len(kept)))
        for unit, point in enumerate(points):
            for place, target in enumerate(kept):
                cost[unit, place] = float((point - points[target]).abs().sum())
        plan = torch.from_numpy(
            ot.emd(ot.unif(group.units), ot.unif(len(kept)), cost, numItermax=10**8)
        ).float()
        for member in group.members:
            along, index = tensors[member.name].movedim(member.dim, 0), places(member, group.units)
            blocks = [along[indices] for indices in index]
            for place, target in enumerate(kept):
                shares = plan[:, place] / (plan.sum(1) if member.reads else plan[:, place].sum())
                new = torch.zeros_like(blocks[target])
                for unit in shares.nonzero().flatten().tolist():
                    new += shares[unit] * blocks[unit]
                along[index[target]] = new
    return apply(model, case.plan)


def feature(made: list[tuple[Tensor, Tensor]], unit: int) -> Tensor:
    point = torch.cat([along[index[unit]].flatten() for along, index in made])
    return point / point.norm()


if __name__ == "__main__":
    main()
