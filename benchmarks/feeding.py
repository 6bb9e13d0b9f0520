"""Does the data path keep up? Seconds to feed one epoch, beside a usual loader and the training it feeds.

CIFAR-10 (or random images of its shape), batch 128, random crop and flip. Three feeders in one process:
`Batches` of this package, and torchvision transforms behind torch's DataLoader with 0 and with 2 workers (the
start of the workers included, as in every epoch of a plain loop). The rounds alternate between the feeders;
medians are compared. The training epoch is a ResNet-20's forward and backward pass, timed on a few batches
and scaled up.

    python benchmarks/feeding.py [--data-root FOLDER] [--device cuda]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import transforms

from harness import parser, record
from secateur import data, models
from secateur.core.tables import PERCENT, Column, Format, Table
from secateur.data import Batches, Dataset, Split

BATCH = 128
SECONDS = Format(lambda value: f"{value:.3f}")
TIMES = Format(lambda value: f"{value:.1f}")
FEEDERS = {
    "batches": "`Batches`",
    "dataloader_0_workers": "DataLoader, 0 workers",
    "dataloader_2_workers": "DataLoader, 2 workers",
}


class PerSample(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images kept decoded in memory and transformed one at a time, as torchvision's CIFAR10 does."""

    def __init__(self, dataset: Dataset) -> None:
        images = dataset.train.inputs
        assert isinstance(images, Tensor)
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = dataset.train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.images[row]), self.labels[row]


def synthetic(count: int, seed: int) -> Dataset:
    stream = torch.Generator().manual_seed(seed)
    train, test = (
        Split(
            torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=stream),
            torch.randint(0, 10, (size,), generator=stream),
        )
        for size in (count, 100)
    )
    half = (0.5, 0.5, 0.5)
    return Dataset("random images", train, test, tuple("0123456789"), half, half, "crop-flip")


def consumed(batches: Iterable[Sequence[Any]], device: torch.device) -> int:
    """Bring every batch to the device; return the number of examples."""
    count = 0
    for batch in batches:
        inputs, labels = batch[0].to(device, non_blocking=True), batch[1].to(device, non_blocking=True)
        assert inputs.device == labels.device
        count += len(labels)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return count


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def training_step_seconds(batches: Batches, steps: int) -> float:
    """Return the median seconds of a ResNet-20's forward and backward pass, the first two steps left out."""
    model = models.build("resnet20", num_classes=10, input_shape=(3, 32, 32)).to(batches.device)
    taken = []
    for step, batch in enumerate(batches.epoch(0)):
        if step == steps + 2:
            break

        def work(batch: data.Batch = batch) -> None:
            functional.cross_entropy(model(batch.inputs), batch.labels).backward()
            if batches.device.type == "cuda":
                torch.cuda.synchronize(batches.device)

        taken.append(seconds(work))
    return statistics.median(taken[2:])


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--device", default="cpu")
    made.add_argument("--rounds", type=int, default=3, help="epochs timed for each feeder")
    made.add_argument("--steps", type=int, default=20, help="training steps timed")
    made.add_argument("--count", type=int, help="training images (all, or 50,000 random ones)")
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    if options.data_root:
        dataset = data.load("cifar10", options.data_root, download=False).subset(
            options.count, seed=options.seed
        )
    else:
        dataset = synthetic(options.count or 50_000, options.seed)
    ours = Batches(
        dataset, batch_size=BATCH, shuffle=True, augment="crop-flip", seed=options.seed, device=options.device
    )
    device, samples = ours.device, PerSample(dataset)

    def loader(workers: int) -> Iterable[tuple[Tensor, ...]]:
        return DataLoader(samples, BATCH, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda")

    feeders: dict[str, Callable[[int], Iterable[Sequence[Any]]]] = {
        "batches": ours.epoch,
        "dataloader_0_workers": lambda epoch: loader(0),
        "dataloader_2_workers": lambda epoch: loader(2),
    }
    consumed(ours.epoch(0), device)  # first-call costs
    taken: dict[str, list[float]] = {name: [] for name in feeders}
    for epoch in range(options.rounds):
        for name, feeder in feeders.items():
            began = time.perf_counter()
            assert consumed(feeder(epoch), device) == len(dataset.train)
            taken[name].append(time.perf_counter() - began)
    median = {name: statistics.median(values) for name, values in taken.items()}
    training = training_step_seconds(ours, options.steps) * len(ours)

    result = {
        "epoch_seconds": taken,
        "median_epoch_seconds": median,
        "resnet20_epoch_seconds": training,
        "times_faster_than_dataloader": {
            name: median[name] / median["batches"] for name in feeders if name != "batches"
        },
        "share_of_training_epoch": {name: value / training for name, value in median.items()},
    }
    rows: list[dict[str, Any]] = [
        {
            "feeder": FEEDERS[name],
            "seconds": value,
            "times": value / median["batches"],
            "share": value / training,
        }
        for name, value in median.items()
    ]
    rows.append(
        {"feeder": f"ResNet-20, forward and backward ({options.steps} steps, scaled up)", "seconds": training}
    )
    columns = [
        Column("feeder", "One epoch"),
        Column("seconds", "Seconds", SECONDS),
        Column("times", "Times ours", TIMES),
        Column("share", "Of the training epoch", PERCENT),
    ]
    record(
        "feeding" if device.type == "cpu" else f"feeding_{device.type}",
        result,
        table=Table(columns, rows),
        command="python benchmarks/feeding.py" + (f" --device {device.type}" if device.type != "cpu" else ""),
        data=f"{dataset.name}, {len(dataset.train):,} training images",
        fingerprint=dataset.fingerprint(),
        seed=options.seed,
        batch_size=BATCH,
        steps=options.steps,
        device=str(device),
    )


if __name__ == "__main__":
    main()
