"""The registry of methods that prune while a model trains, and `start`, which puts one to work.

A method is a subclass of `Method` whose `__init__` takes the job and, as keyword-only parameters, its options with
their defaults. Registering it is all it takes for the library, the command line, the documentation and the shared
tests to know it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from secateur.core.errors import InputError
from secateur.core.options import check_options, options_of
from secateur.core.registry import Registry
from secateur.measure.inputs import ModelInputs
from secateur.methods.base import Method, MethodJob
from secateur.methods.running import RUNNING, check_free
from secateur.pruning.allocate_weights import check_amount
from secateur.sparsity.masks import Masks
from secateur.sparsity.targets import as_names, matches, require_module

AnyMethod = TypeVar("AnyMethod", bound=type[Method])


@dataclass(frozen=True)
class Entry:
    """A registered method: `make(job, **options)` prepares it, `options` are its own with their defaults."""

    name: str
    make: type[Method]
    options: Mapping[str, Any]
    paper: str

    @property
    def summary(self) -> str:
        """First line of the method's docstring."""
        return (inspect.getdoc(self.make) or "").partition("\n")[0]

    def check(self, amount: float | None, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option it can't take, or an amount that is missing or has no meaning."""
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


def loose_options() -> dict[str, str]:
    """Return the options of all methods, with the methods that have them and their defaults, as help."""
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
    keep: str | Sequence[str] | None = (),
    layers: str | Sequence[str] | None = (),
    masks: Mapping[str, Tensor] | None = None,
    example_inputs: ModelInputs | None = None,
    seed: int = 0,
    **options: Any,
) -> Method:
    """Put a registered method to work on a model in training; it follows every `optimizer.step()` by itself.

    Start it before wrapping the model for several processes and before making a learning-rate scheduler: some
    methods add parameters to both. Add `method.penalty()` to the loss, and end with `masks = method.finish()`.

    Args:
        name: one of `METHODS`.
        model: any module, on the device it trains on.
        optimizer: of its parameters; unwrapped.
        steps: how many times `optimizer.step()` will be called; schedules are fractions of it.
        amount: the fraction to cut in the end, exactly round(amount · n) of all n weights that may be cut, or of all
            units for methods that count them (group_lasso, growing).
        include: roles that may be cut, see `secateur.sparsity.targets`; methods of units and layers choose by
            themselves.
        keep: names or globs of parameters or modules to leave alone.
        layers: names or globs; when given, only these are touched.
        masks: earlier cuts; they stay cut and count towards `amount`.
        example_inputs: what the model's forward takes; for methods that look for channels or layers.
        seed: of everything drawn at random; the same on all processes.
        options: the method's own.

    Raises:
        InputError: for an argument that makes no sense, or a method at work on the same weights.
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
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputError(
            f"The optimiser is a {type(optimizer).__name__}: pass a torch.optim.Optimizer, unwrapped."
        )
    owned = {id(each) for group in optimizer.param_groups for each in group["params"]}
    if not any(id(parameter) in owned for parameter in model.parameters()):
        raise InputError(
            "The optimiser holds none of the model's parameters: make it from model.parameters()."
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InputError(f"The steps are {steps!r}: give how often optimizer.step() will be called.")
    Masks(masks or {}).of(model)
    job = MethodJob(
        name=name,
        model=model,
        optimizer=optimizer,
        steps=steps,
        requested=amount,
        include=as_names(include),
        keep=as_names(keep),
        layers=as_names(layers),
        masks=Masks(masks or {}),
        example_inputs=example_inputs,
        seed=seed,
    )
    check_free(job, entry.make)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for pattern in (*as_names(keep), *as_names(layers)):
        if not any(matches(name, pattern) for name in names):
            raise InputError(
                f"No layer with parameters matches '{pattern}': list the layers with secateur inspect."
            )
    made = entry.make(job, **options)
    made.attach()
    RUNNING.add(made)
    return made
