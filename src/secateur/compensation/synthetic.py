"""Synthetic calibration data from a model's batch-normalisation statistics.

The running statistics of a trained batch normalisation are the mean and variance of its training inputs. Noise is
optimised until its own statistics match them at all normalisations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from secateur.core.contexts import evaluating
from secateur.core.errors import InputError, ModelError
from secateur.core.modules import modules_of
from secateur.core.options import check_least
from secateur.core.progress import Bar, bar
from secateur.core.seeds import same_draws, seed_of
from secateur.measure.inputs import ModelInputs, batch_size, forward
from secateur.sparsity.targets import require_module


def synthetic_inputs(
    model: nn.Module,
    example_inputs: ModelInputs,
    samples: int = 512,
    batch: int = 64,
    steps: int = 50,
    seed: int = 0,
    lr: float = 0.1,
) -> list[tuple[Any, None]]:
    """Return batches of synthetic inputs, each with None for its labels, for use as `data=`.

    There are `samples` (default 512) in batches of `batch` (default 64). Floating-point tensors start as Gaussian noise
    of mean 0 and variance 1, drawn by `seed` (default 0). For a model with running statistics of normalisations, Adam
    takes `steps` (default 50) steps with the learning rate `lr` (default 0.1) to minimise

        Σ_l ‖μ_l(x) − mean_l‖₂ + ‖σ²_l(x) − var_l‖₂,

    where μ_l and σ²_l are those of a batch at the input of normalisation l (Yin et al. 2020, Dreaming to Distill,
    eq. 4; Haroush et al. 2020, The Knowledge Within). Without such statistics, or with 0 steps, they remain noise.
    Integer inputs of an `nn.Embedding` are drawn from its rows. All other inputs, such as masks, are repeated from the
    example. Dtypes and devices are the example's. The model runs in eval mode and is not changed.

    Cost: `steps` forward and backward passes over all samples.

    Raises `InputError` for numbers out of range and example inputs without a batch dimension, and `ModelError` if the
    model does not run on them, or statistics or activations are not finite.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    >>> data = synthetic_inputs(model, torch.zeros(1, 3, 8, 8), samples=24, batch=16, steps=5)
    >>> [tuple(inputs.shape) for inputs, _ in data]
    [(16, 3, 8, 8), (8, 3, 8, 8)]
    """
    require_module(model)
    for name, value, least in (
        ("samples", samples, 1),
        ("samples in a batch", batch, 1),
        ("steps", steps, 0),
    ):
        check_least(f"number of {name}", value, least)
    check_least("seed", seed, 0)
    if not 0 < lr < torch.inf:
        raise InputError(f"lr is {lr!r}: give a learning rate above 0, such as 0.1.")
    sizes = [min(batch, samples - at) for at in range(0, samples, batch)]
    made: list[tuple[Any, None]] = []
    with (
        evaluating(model),
        same_draws(seed, model),
        bar("synthetic inputs", len(sizes) * max(1, steps)) as running,
    ):
        template = Template.of(model, example_inputs)
        for number, size in enumerate(sizes):
            generator = torch.Generator().manual_seed(seed_of("synthetic", seed, number))
            leaves = template.drawn(size, generator)
            template.dream(model, leaves, steps, lr, running)
            made.append((template.inputs(leaves), None))
    return made


class Template(NamedTuple):
    """The form of a model's inputs: the leaves and tree of the example, and its batch size `given`.

    `rows` maps the index of each leaf that an embedding reads to its number of rows.
    """

    leaves: list[Any]
    tree: Any
    given: int
    rows: dict[int, int]

    @classmethod
    def of(cls, model: nn.Module, example_inputs: ModelInputs) -> Template:
        """Return the template of an example, from a forward pass. Raises `InputError` without a batch dimension."""
        leaves, tree = tree_flatten(example_inputs)
        given = batch_size(example_inputs)
        if not given:
            raise InputError(
                "The example inputs hold no tensor with a batch dimension: give at least one sample."
            )
        whole = {
            leaf.untyped_storage().data_ptr(): at
            for at, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and not leaf.is_floating_point()
        }
        rows: dict[int, int] = {}

        def look_up(module: Any, args: tuple[Any, ...]) -> None:
            at = whole.get(args[0].untyped_storage().data_ptr()) if args else None
            if at is not None:
                rows[at] = min(rows.get(at, module.num_embeddings), module.num_embeddings)

        hooks = [
            module.register_forward_pre_hook(look_up)
            for module in modules_of(model)
            if isinstance(module, nn.Embedding)
        ]
        try:
            with torch.no_grad():
                forward(model, example_inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return cls(leaves, tree, given, rows)

    def drawn(self, size: int, generator: torch.Generator) -> list[Any]:
        """Return the leaves of a batch of noise; floating-point ones in float32 at least."""
        return [self._leaf(at, size, generator) for at in range(len(self.leaves))]

    def _leaf(self, at: int, size: int, generator: torch.Generator) -> Any:
        leaf = self.leaves[at]
        if not isinstance(leaf, Tensor) or not leaf.ndim or len(leaf) != self.given:
            return leaf
        shape = (size, *leaf.shape[1:])
        if leaf.is_floating_point():
            dtype = torch.promote_types(leaf.dtype, torch.float32)
            return torch.randn(shape, generator=generator, dtype=dtype).to(leaf.device)
        if at in self.rows:
            return torch.randint(self.rows[at], shape, generator=generator).to(leaf)
        return leaf[torch.arange(size, device=leaf.device) % self.given]

    def inputs(self, leaves: Sequence[Any]) -> Any:
        """Return leaves in the form and the dtypes of the example."""
        own = (
            new.to(old.dtype) if isinstance(new, Tensor) else new
            for new, old in zip(leaves, self.leaves, strict=True)
        )
        return tree_unflatten(list(own), self.tree)

    def dream(self, model: nn.Module, leaves: list[Any], steps: int, lr: float, running: Bar) -> None:
        """Optimise the noise among the leaves in place to match the running statistics.

        Raises `ModelError` for statistics or activations that are not finite.
        """
        free = [
            leaf
            for leaf, old in zip(leaves, self.leaves, strict=True)
            if leaf is not old and leaf.is_floating_point()
        ]
        if not free or not any(map(_remembers, modules_of(model))):
            running.advance(max(1, steps))
            return
        for leaf in free:
            leaf.requires_grad_()
        adam = torch.optim.Adam(free, lr=lr)
        for _ in range(steps):
            with mismatches(model) as found, torch.enable_grad():
                forward(model, self.inputs(leaves))
                loss = torch.stack(found).sum() if found else torch.zeros(())
            if not loss.isfinite():
                raise ModelError(
                    "The running statistics can't be compared: they, or activations, are not finite."
                )
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, free, allow_unused=True)
                for leaf, gradient in zip(free, gradients, strict=True):
                    leaf.grad = gradient
                adam.step()
            running.advance()
            running.say(f"mismatch {float(loss.detach()):.3f}")
        for leaf in free:
            leaf.requires_grad_(False).grad = None


@contextmanager
def mismatches(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect ‖μ − mean‖₂ + ‖σ² − var‖₂ at the input of each normalisation that runs in the block."""
    found: list[Tensor] = []

    def compare(module: Any, args: tuple[Any, ...]) -> None:
        channels = args[0].movedim(1, 0).flatten(1)
        variance, mean = torch.var_mean(channels, dim=1, correction=0)
        pairs = ((mean, module.running_mean), (variance, module.running_var))
        found.append(sum((torch.linalg.vector_norm(own - kept) for own, kept in pairs), torch.zeros(())))

    hooks = [module.register_forward_pre_hook(compare) for module in modules_of(model) if _remembers(module)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _remembers(module: nn.Module) -> bool:
    return all(isinstance(getattr(module, name, None), Tensor) for name in ("running_mean", "running_var"))
