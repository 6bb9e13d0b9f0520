"""How long HRank and CHIP take on ResNet-56 and 640 CIFAR-10 images, beside a plain loop over maps and channels.

The public checkpoint resnet56-4bfd9763.th is expected in DATA_ROOT/weights/cifar10. The plain loop does what published
code does, map by map: `torch.linalg.matrix_rank` of each, and the nuclear norm of each image's channels with each of
them zeroed in turn, in float32. It runs on a few images (--plain), and its time is extrapolated to all, image by image;
the forward passes, which both need, are timed apart. Times are CPU seconds of one thread, so that other work on the
machine counts little; of `REPEATS` the best.

    python benchmarks/activation_speed.py --data-root DIR [--images 640] [--plain 16] [--threads 1]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import parser, record, trained
from secateur import CRITERIA, Calibration, analyze
from secateur.core.tables import Column, Format, Table
from secateur.graph.probe import Probe
from secateur.importance import unit_scores
from secateur.importance.sites import Sites

BATCH = 128
REPEATS = 3


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=640)
    options.add_argument("--plain", type=int, default=16, help="images for the plain loop")
    given = options.parse_args()
    torch.set_num_threads(given.threads or 1)
    model, data = trained("resnet56", given.data_root)
    data = data.subset(train=given.images, seed=0)
    images = data.normalised(data.train.inputs)
    assert isinstance(images, Tensor)
    groups = analyze(model.eval(), images[:2])
    maps = seen_maps(model, groups, images[: given.plain])
    rows = []
    forward = best(lambda: passes(model, images)) / len(images)
    for name, plain in (("hrank", plain_ranks), ("chip", plain_independence)):
        batches = [(part, None) for part in images.split(BATCH)]
        ours = best(
            lambda name=name, batches=batches: unit_scores(  # type: ignore[misc]
                model, groups.free, name, coupling=groups.coupling, data=Calibration(batches)
            )
        ) / len(images)
        formula = CRITERIA[name].unit
        alone = best(lambda formula=formula: [formula(each) for each in maps]) / given.plain  # type: ignore[misc]
        theirs = best(lambda plain=plain: [plain(each) for each in maps]) / given.plain  # type: ignore[misc]
        apart = max(
            float(((formula(each) - plain(each)).abs() / plain(each).abs().amax()).max())
            for each in maps[::9]
        )
        rows.append(
            {
                "criterion": name,
                "ours": ours * len(images),
                "theirs": (theirs + forward) * len(images),
                "ratio": (theirs + forward) / ours,
                "formula": alone * 1e3,
                "plain": theirs * 1e3,
                "formula_ratio": theirs / alone,
                "difference": apart,
            }
        )
    seconds, milliseconds = Format(lambda value: f"{value:.1f} s"), Format(lambda value: f"{value:.2f} ms")
    times, small = Format(lambda value: f"{value:.1f}×"), Format(lambda value: f"{value:.0e}")
    columns = [
        Column("criterion", "Criterion"),
        Column("ours", f"{given.images} images, secateur", seconds),
        Column("theirs", "plain loop, extrapolated", seconds),
        Column("ratio", "Faster", times),
        Column("formula", "Formula alone, an image", milliseconds),
        Column("plain", "plain loop, an image", milliseconds),
        Column("formula_ratio", "Faster", times),
        Column("difference", "Largest difference, of the largest score", small),
    ]
    record(
        "activation_speed",
        {"rows": rows, "forward_ms_per_image": forward * 1e3, "plain_images": given.plain},
        table=Table(columns, rows),
        command="python benchmarks/activation_speed.py",
        data=f"CIFAR-10, {given.images} training images in batches of {BATCH}; plain loop on {given.plain} of them",
        repeats=REPEATS,
        seed=0,
    )


def seen_maps(model: nn.Module, groups: Any, images: Tensor) -> list[Tensor]:
    """All maps that the criteria look at, [N, channels, H, W]."""
    sites = Sites(groups.coupling)
    places = [spot.place for group in groups.free for spot, _ in sites.maps(group)]
    found: list[Tensor] = []
    with torch.no_grad():
        Probe(model, groups.coupling.program, places).run(images, lambda _, maps: found.append(maps.clone()))
    return found


@torch.no_grad()
def passes(model: nn.Module, images: Tensor) -> None:
    for part in images.split(BATCH):
        model(part)


def plain_ranks(maps: Tensor) -> Tensor:
    flat = [torch.linalg.matrix_rank(channel).item() for image in maps for channel in image]
    return torch.tensor(flat, dtype=torch.float64).view(maps.shape[:2])


def plain_independence(maps: Tensor) -> Tensor:
    found = torch.empty(maps.shape[:2], dtype=torch.float64)
    for at, image in enumerate(maps.flatten(2)):
        whole = torch.linalg.matrix_norm(image, "nuc")
        for channel in range(len(image)):
            without = F.one_hot(torch.tensor(channel), len(image)).bool()[:, None]
            found[at, channel] = whole - torch.linalg.matrix_norm(image.masked_fill(without, 0), "nuc")
    return found


def best(run: Callable[[], Any], repeats: int = REPEATS) -> float:
    """CPU seconds of the fastest run."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return min(times)


if __name__ == "__main__":
    main()
