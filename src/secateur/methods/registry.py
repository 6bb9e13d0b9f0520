"""The registry of methods that prune during training, and `start`, which starts one.

A method is a subclass of `Method` whose `__init__` takes the job and, as keyword-only parameters, its options with
their defaults. The library, the command line, the documentation and the shared tests read the registry.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from secateur.core.errors import InputError
from secateur.core.modules import named_parameters
from secateur.core.options import check_options, options_of
from secateur.core.registry import Registry
from secateur.measure.inputs import ModelInputs
from secateur.methods.base import Method, MethodJob
from secateur.methods.running import RUNNING, check_free
from secateur.pruning.allocate_weights import check_amount
from secateur.sparsity.masks import Masks, masked_by_torch, require_owned
from secateur.sparsity.targets import LayerNames, as_names, found, names_in, require_module

AnyMethod = TypeVar("AnyMethod", bound=type[Method])


@dataclass(frozen=True)
class Entry:
    """A registered method: `make(job, **options)` constructs it; `options` maps its own options to their defaults."""

    name: str
    make: type[Method]
    options: Mapping[str, Any]
    paper: str

    @property
    def summary(self) -> str:
        """First line of the method's docstring."""
        return (inspect.getdoc(self.make) or "").partition("\n")[0]

    def check(self, amount: float | None, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an unknown option, or a missing, refused or out-of-range amount."""
        check_options(f"the method {self.name}", options, self.make)
        if amount is None and self.make.amount == "required":
            raise InputError(
                f"The method {self.name} needs an amount: amount=0.9 cuts 90 % of the prunable {self.make.counts}."
            )
        if amount is not None:
            if self.make.amount == "none":
                raise InputError(
                    f"The method {self.name} cuts nothing by itself: leave the amount out, and prune afterwards."
                )
            check_amount(amount)


METHODS: Registry[Entry] = Registry("method")


def method(name: str, *, paper: str) -> Callable[[AnyMethod], AnyMethod]:
    """Register the decorated subclass of `Method` under `name`."""

    def register(make: AnyMethod) -> AnyMethod:
        METHODS.add(name, Entry(name, make, options_of(make), paper))
        return make

    return register


def extra_options() -> dict[str, str]:
    """Return option → help text of all methods' options: the methods that have it, and its defaults."""
    help_of = {}
    for option in dict.fromkeys(option for entry in METHODS.values() for option in entry.options):
        owners = {e.name: str(e.options[option]) for e in METHODS.values() if option in e.options}
        defaults = " or ".join(dict.fromkeys(owners.values()))
        help_of[option] = f"option of {', '.join(owners)} [default: {defaults}]"
    return help_of


def start(
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    amount: float | None = None,
    include: str | Sequence[str] = ("weights",),
    keep: LayerNames = (),
    layers: LayerNames = (),
    masks: Mapping[str, Tensor] | None = None,
    example_inputs: ModelInputs | None = None,
    seed: int = 0,
    **options: Any,
) -> Method:
    """Start a registered method on a model in training; it acts at every `optimizer.step()`.

    Start it before wrapping the model for several processes and before making a learning-rate scheduler: some
    methods add parameters to both. Add `method.penalty()` to the loss, and end with `masks = method.finish()`.

    Args:
        name: one of `METHODS`.
        model: any module, on the device it trains on.
        optimizer: a `torch.optim.Optimizer` of its parameters, unwrapped.
        steps: number of calls of `optimizer.step()`; schedules are fractions of it.
        amount: the fraction to cut in the end, exactly round(amount · n) of all n prunable weights, or of all units
            for methods that count them (group_lasso, growing).
        include: prunable roles, see `secateur.sparsity.targets`; ignored by methods of units and layers.
        keep: names or globs of parameters or modules to exclude, or these themselves.
        layers: names or globs of the only parameters or modules to include, or these themselves; all by default.
        masks: earlier cuts, name → boolean mask, True keeps; they stay cut and count towards `amount`, as do the
            masks of torch.nn.utils.prune.
        example_inputs: inputs of the model's forward, for methods that trace channels or layers.
        seed: seed of all random numbers; the same on all processes.
        options: the method's own options.

    Raises:
        InputError: for an invalid argument, or a method at work on the same weights.
        ModelError: for a model with nothing to prune by this method.

    >>> layer = nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    >>> pruning = start("gradual", layer, optimizer, steps=10, amount=0.5)
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     loss = layer(torch.ones(1, 4)).square().sum() + pruning.penalty()
    ...     loss.backward()
    ...     optimizer.step()
    >>> pruning.finish().pruned
    4
    """
    entry = METHODS[name]
    entry.check(amount, options)
    require_module(model)
    if entry.make.reshapes and isinstance(model, DistributedDataParallel):
        raise InputError(
            f"The model is wrapped for several processes already: start {name} on it first, then wrap it."
        )
    require_owned(model, optimizer)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InputError(f"The steps are {steps!r}: give how often optimizer.step() will be called.")
    earlier = Masks(masks or {}).named_as_in(model) & masked_by_torch(model)
    job = MethodJob(
        name=name,
        model=model,
        optimizer=optimizer,
        steps=steps,
        requested=amount,
        include=as_names(include),
        keep=names_in(model, keep),
        layers=names_in(model, layers),
        masks=earlier,
        example_inputs=example_inputs,
        seed=seed,
    )
    check_free(job, entry.make)
    names = [name for name, _ in named_parameters(model, remove_duplicate=False)]
    job = replace(job, keep=found(job.keep, names), layers=found(job.layers, names))
    made = entry.make(job, **options)
    made.attach()
    RUNNING.add(made)
    return made
