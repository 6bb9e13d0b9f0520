"""Are ranks of feature maps a property of the channel or of the images? Rank correlations for a trained ResNet-56.

HRank rests on the observation that the mean rank of a channel's maps hardly depends on the images. Here the scores of
every group of channels are compared (Spearman's ρ, the mean over groups) between disjoint batches of 128 CIFAR-10
images, between different numbers of images, and with images of other data sets brought to 32×32: MNIST, Fashion-MNIST
and noise. The public checkpoint resnet56-4bfd9763.th is expected in DATA_ROOT/weights/cifar10.

    python benchmarks/hrank_stability.py --data-root DIR [--threads 1]
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import parser, record, trained
from secateur import Calibration, analyze, load_data
from secateur.core.tables import Column, Format, Table
from secateur.importance import unit_scores

BATCH = 128
CRITERIA = ("hrank", "chip", "apoz", "activation")


def main() -> None:
    given = parser(__doc__).parse_args()
    torch.set_num_threads(given.threads or 1)
    model, data = trained("resnet56", given.data_root)
    data = data.subset(train=5 * BATCH, seed=0)
    images = data.normalised(data.train.inputs)
    assert isinstance(images, Tensor)
    groups = analyze(model, images[:2])
    sets = {f"batch {number}": part for number, part in enumerate(images.split(BATCH))}
    sets |= {name: other(given.data_root, name, images) for name in OTHERS}
    sets["noise"] = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sets["8 images"], sets["640 images"] = images[:8], images
    calibration = {
        name: Calibration([(part, None) for part in each.split(BATCH)]) for name, each in sets.items()
    }

    rows = []
    for criterion in CRITERIA:
        found = {
            name: unit_scores(model, groups.free, criterion, coupling=groups.coupling, data=each)
            for name, each in calibration.items()
        }
        pairs = [
            agreement(found[one], found[other])
            for one, other in combinations([name for name in found if name.startswith("batch")], 2)
        ]
        row: dict[str, Any] = {
            "criterion": criterion,
            "batches": sum(pairs) / len(pairs),
            "worst": min(pairs),
        }
        row["few"] = agreement(found["8 images"], found["640 images"])
        rows.append(row | {name: agreement(found[name], found["640 images"]) for name in (*OTHERS, "noise")})
    ratio = Format(lambda value: f"{value:.3f}")
    columns = [
        Column("criterion", "Criterion"),
        Column("batches", "Two batches of 128, mean of 10 pairs", ratio),
        Column("worst", "the worst pair", ratio),
        Column("few", "8 and 640 images", ratio),
        *(Column(name, f"CIFAR-10 and {title}", ratio) for name, title in OTHERS.items()),
        Column("noise", "CIFAR-10 and noise", ratio),
    ]
    record(
        "hrank_stability",
        {"rows": rows},
        table=Table(columns, rows),
        command="python benchmarks/hrank_stability.py",
        data="CIFAR-10, 640 training images; 128 of each other set",
        fingerprint=data.fingerprint(),
        groups=len(groups.free),
        seed=0,
    )


OTHERS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def other(root: str, name: str, like: Tensor) -> Tensor:
    """128 grey images in three channels, 32×32, normalised to the mean and spread of `like`."""
    chosen = load_data(name, root, normalize="none").subset(train=BATCH, seed=0).train
    assert isinstance(chosen.inputs, Tensor)
    grey = F.pad(chosen.inputs.float().expand(-1, 3, -1, -1), (2, 2, 2, 2))
    return (grey - grey.mean()) / grey.std() * like.std() + like.mean()


def agreement(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Spearman's ρ of the channels' ranking, equal scores sharing their rank, the mean over groups."""
    rhos = []
    for name in one:
        ranks = torch.stack([ranked(scores[name]) for scores in (one, other)])
        if (ranks.std(1) > 0).all():
            rhos.append(float(torch.corrcoef(ranks)[0, 1]))
    return sum(rhos) / len(rhos)


def ranked(scores: Tensor) -> Tensor:
    less = (scores[:, None] > scores).double().sum(1)
    return less + (scores[:, None] == scores).double().sum(1) / 2


if __name__ == "__main__":
    main()
