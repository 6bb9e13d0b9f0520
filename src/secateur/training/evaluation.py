"""Evaluation of classifiers: top-1, top-5 and cross-entropy over a whole split, exactly.

Counts and sums, not averages, are reduced over processes, so a smaller last batch has its own weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.core.contexts import evaluating
from secateur.core.errors import ModelError
from secateur.core.modules import parameters_of
from secateur.core.progress import bar
from secateur.core.seeds import same_draws
from secateur.data import Batches, Dataset
from secateur.data.dataset import each

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Tally:
    """Running sums over samples: `loss` in nats, `top1` and `top5` counts, `seen` samples.

    Each batch is summed on the device, and copied to the CPU only by `sums`, so `add` does not synchronise.
    """

    def __init__(self, loss: float = 0.0, top1: float = 0.0, top5: float = 0.0, seen: float = 0.0) -> None:
        """Start from these sums."""
        self._sums = torch.tensor([loss, top1, top5], dtype=torch.float64)
        self._seen = seen
        self._waiting: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor, loss_sum: Tensor) -> None:
        """Count one batch: `logits` [N, classes], `labels` int64 [N], `loss_sum` the batch's summed loss, scalar."""
        hits = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        self._waiting.append(
            torch.stack([loss_sum.detach().float(), hits[:, 0].sum().float(), hits.sum().float()])
        )
        self._seen += len(labels)

    def sums(self) -> dict[str, float]:
        """Return the sums by name; batches are added in order, in float64."""
        for batch in torch.stack(self._waiting).cpu().double() if self._waiting else ():
            self._sums += batch
        self._waiting.clear()
        loss, top1, top5 = self._sums.tolist()
        return {"loss": loss, "top1": top1, "top5": top5, "seen": self._seen}

    def reduced(self, fabric: Fabric | None) -> Tally:
        """Return the sums over all processes."""
        if fabric is None or fabric.world_size == 1:
            return self
        own = torch.tensor(list(self.sums().values()), dtype=torch.float64, device=fabric.device)
        total = fabric.all_reduce(own, reduce_op="sum")
        assert isinstance(total, Tensor)
        return Tally(*total.tolist())

    def means(self) -> dict[str, float]:
        """Return loss, top1 and top5 per sample; fractions, not percent."""
        sums = self.sums()
        seen = max(1.0, sums.pop("seen"))
        return {name: value / seen for name, value in sums.items()}


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
    """Return {"loss", "top1", "top5"} of `model` on a split of `data`: cross-entropy in nats, accuracies in 0..1.

    The model runs in eval mode on its own device and returns to its modes afterwards. `split` is test (the default)
    or train. With a `fabric` its processes share the batches. Raises `ModelError` if the model can't take the inputs
    or its output is not [batch, classes], `InputError` for an unknown split or a batch size below 1.
    """
    batches = Batches(
        data,
        split,
        batch_size,
        device=_device(model),
        rank=fabric.global_rank if fabric else 0,
        world=fabric.world_size if fabric else 1,
        channels_last=channels_last,
    )
    tally = Tally()
    with (
        evaluating(model),
        same_draws(0, model),
        torch.inference_mode(),
        bar(f"evaluate on {split}", len(batches), shown=progress) as running,
    ):
        for batch in batches:
            if len(batch.labels):
                logits = logits_of(model, batch.inputs, data)
                loss = functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
                tally.add(logits, batch.labels, loss)
            running.advance()
    return tally.reduced(fabric).means()


def try_out(model: nn.Module, data: Dataset) -> None:
    """Run two samples through `model` in eval mode. Raises `ModelError` if model and data don't fit."""
    with evaluating(model), same_draws(0, model), torch.no_grad():
        logits_of(model, each(lambda tensor: tensor.to(_device(model)), data.example(2)), data)


def logits_of(model: nn.Module, inputs: Any, data: Dataset) -> Tensor:
    """Return the logits [N, classes] of `model` on a batch (a tensor or keyword tensors).

    Raises `ModelError` if the model can't take the inputs, or its output has fewer columns than `data` classes.
    """
    try:
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        shape = "text" if data.input_shape is None else "×".join(map(str, data.input_shape))
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{type(model).__name__} cannot take the {shape} inputs of {data.name}: {reason.rstrip('.')}."
        ) from error
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < data.num_classes:
        found = (
            f"[{', '.join(map(str, logits.shape))}]" if isinstance(logits, Tensor) else type(logits).__name__
        )
        raise ModelError(
            f"The model's output is {found}, but {data.name} has {data.num_classes} classes: "
            f"build the model with num_classes={data.num_classes}."
        )
    return logits


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in parameters_of(model)), torch.device("cpu"))
