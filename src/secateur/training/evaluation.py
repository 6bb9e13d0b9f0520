"""How good a classifier is: top-1, top-5 and cross-entropy over a whole split, exactly.

Counts and sums are reduced over processes, never averages of averages: uneven last batches weigh what they hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.data import Batches, Dataset
from secateur.errors import ModelError
from secateur.modes import evaluating
from secateur.progress import bar

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Tally:
    """Running sums over samples: `loss` in nats, `top1` and `top5` counts, `seen` samples."""

    loss: float = 0.0
    top1: int = 0
    top5: int = 0
    seen: int = 0

    def add(self, logits: Tensor, labels: Tensor, loss_sum: Tensor) -> None:
        """Count one batch: `logits` [N, classes], `labels` [N], `loss_sum` the batch's summed loss."""
        if not len(labels):
            return
        best = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        sums = torch.stack([loss_sum.detach().double(), best[:, 0].sum().double(), best.sum().double()]).tolist()
        self.loss += sums[0]
        self.top1 += int(sums[1])
        self.top5 += int(sums[2])
        self.seen += len(labels)

    def reduced(self, fabric: Fabric | None) -> Tally:
        """Return the sums over all processes."""
        if fabric is None or fabric.world_size == 1:
            return self
        sums = torch.tensor([self.loss, self.top1, self.top5, self.seen], dtype=torch.float64, device=fabric.device)
        total = fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(total, Tensor)
        loss, top1, top5, seen = total.tolist()
        return Tally(loss, int(top1), int(top5), int(seen))

    def means(self) -> dict[str, float]:
        """Return loss, top1 and top5 per sample; fractions, not percent."""
        seen = max(1, self.seen)
        return {"loss": self.loss / seen, "top1": self.top1 / seen, "top5": self.top5 / seen}


def evaluate(
    model: nn.Module,
    data: Dataset,
    *,
    split: str = "test",
    batch_size: int = 500,
    fabric: Fabric | None = None,
    channels_last: bool = True,
    progress: bool = True,
) -> dict[str, float]:
    """Return {"loss", "top1", "top5"} of `model` on a split of `data`, in eval mode, as fractions.

    The model stays on the device it is on and comes back in the mode it was in. Raises `ModelError` where its
    output is not [batch, classes].
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    batches = Batches(
        data,
        split,
        batch_size,
        device=device,
        rank=fabric.global_rank if fabric else 0,
        world=fabric.world_size if fabric else 1,
        channels_last=channels_last,
    )
    tally = Tally()
    with evaluating(model), torch.inference_mode(), bar(f"evaluate on {split}", len(batches), shown=progress) as running:
        for batch in batches:
            logits = logits_of(model, batch.inputs, data)
            tally.add(logits, batch.labels, functional.cross_entropy(logits.float(), batch.labels, reduction="sum"))
            running.advance()
    return tally.reduced(fabric).means()


def logits_of(model: nn.Module, inputs: Any, data: Dataset) -> Tensor:
    """Run `model` on a batch (a tensor or keyword tensors) and return its [N, classes] logits."""
    try:
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        shape = "text" if data.input_shape is None else "×".join(map(str, data.input_shape))
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{type(model).__name__} cannot take the {shape} inputs of {data.name}: {reason}") from error
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < data.num_classes:
        found = f"[{', '.join(map(str, logits.shape))}]" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"The model's output is {found}, but {data.name} has {data.num_classes} classes: "
            f"build the model with num_classes={data.num_classes}."
        )
    return logits
