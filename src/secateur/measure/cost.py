"""Multiply-accumulates (MACs) of one forward pass, by module, and shapes and parameters of its layers.

A real forward pass is recorded op by op, below autograd. Matrix products, convolutions and attention count, by the
formulas of `torch.utils.flop_counter` (two FLOPs are one MAC), and the products that it leaves out by their own
(`measure/products.py`); all other operations (activations, normalisation, pooling) count 0, as is the convention. Fused
kernels that hide their products (the transformer fast path, fused attention, oneDNN's and cuDNN's recurrent layers) are
switched off for the count.

`macs_nonzero` multiplies each product by the nonzero fraction of its weight operand: the MACs of an ideal kernel
that skips every zero weight, a lower bound for real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.core.brief import Brief
from secateur.core.contexts import evaluating, unfused
from secateur.core.modules import named_modules, named_parameters, parameters_of
from secateur.core.schemas import given, in_parts, operator_name
from secateur.core.seeds import same_draws
from secateur.core.wrapped import unwrapped
from secateur.measure.inputs import ModelInputs, forward, masked
from secateur.measure.products import PRODUCTS


@dataclass(frozen=True)
class LayerCost:
    """Cost of one module in a forward pass.

    Shapes are those of the first tensor of its first call, None without a tensor. `parameters` are its own and those
    of submodules it never calls; `macs` are those of all its calls, less its submodules'.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    parameters: int
    macs: int
    macs_nonzero: int


@dataclass(frozen=True, repr=False)
class Cost(Brief):
    """Cost of one forward pass, in MACs.

    `by_module` holds each called module's MACs, submodules included; "" is the model. `layers` lists, in the order
    of execution, the modules that call no other, compute products or hold parameters; their MACs and parameters add
    up to the totals.
    """

    macs: int
    macs_nonzero: int
    by_module: Mapping[str, int]
    layers: tuple[LayerCost, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the value as JSON: dictionaries, lists, numbers and strings."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers]}


def cost(model: nn.Module, example_inputs: ModelInputs, masks: Mapping[str, Tensor] | None = None) -> Cost:
    """Count the MACs of one forward pass of `model` in evaluation mode, without gradients.

    `example_inputs` is a tensor, a tuple of arguments or a mapping of keyword arguments, on the model's
    device. The count is for the whole batch: pass one sample for MACs per sample. Weights cut by `masks` (name →
    boolean tensor, True keeps) count as zero. The model is unchanged. Raises `ModelError` if the forward pass
    fails, `InputError` if the masks belong to another model.
    """
    model = unwrapped(model)
    counter = _Counter(model)
    with (
        torch.no_grad(),
        masked(model, masks),
        evaluating(model),
        unfused(),
        same_draws(0, model),
        counter.watching(),
        counter,
    ):
        forward(model, example_inputs)
    return counter.cost()


@dataclass
class _ModuleTally:
    """Running sums of one called module; `own` and `own_nonzero` are MACs less its submodules'."""

    kind: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None = None
    calls_others: bool = False
    parameters: int = 0
    macs: int = 0
    own: int = 0
    own_nonzero: int = 0


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds the MACs of every product to all running modules, and to the `own` ones of the innermost."""

    def __init__(self, model: nn.Module) -> None:
        from torch.utils.flop_counter import flop_registry  # which imports triton

        super().__init__()  # type: ignore[no-untyped-call]
        self.formulas: Mapping[Any, Callable[..., int]] = flop_registry
        self.model = model
        self.tallies: dict[str, _ModuleTally] = {}
        self.running: list[str] = []
        self.weights = {_storage(parameter) for parameter in parameters_of(model)}
        self.nonzero: dict[tuple[Any, ...], int] = {}
        self.computed: list[Tensor] = []  # kept, so that their memory is not used again

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hook every module within the block."""
        handles = []
        for name, module in named_modules(self.model):
            handles.append(module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(self._leave, name), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def cost(self) -> Cost:
        """Return the sums as a `Cost`."""
        for name, parameter in named_parameters(self.model):
            owner = name.rpartition(".")[0]
            while owner not in self.tallies:
                owner = owner.rpartition(".")[0]
            self.tallies[owner].parameters += parameter.numel()
        return Cost(
            macs=sum(tally.own for tally in self.tallies.values()),
            macs_nonzero=sum(tally.own_nonzero for tally in self.tallies.values()),
            by_module={name: tally.macs for name, tally in self.tallies.items()},
            layers=tuple(
                LayerCost(name, t.kind, t.input_shape, t.output_shape, t.parameters, t.own, t.own_nonzero)
                for name, t in self.tallies.items()
                if t.own or t.parameters or not t.calls_others
            ),
        )

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.running:
            self.tallies[self.running[-1]].calls_others = True
        self.running.append(name)
        self.tallies.setdefault(name, _ModuleTally(type(module).__name__, _first_shape([args, kwargs])))
        # Weights that hooks compute before each call, as torch.nn.utils.prune does, are plain attributes.
        self.weights |= {_storage(value) for value in vars(module).values() if isinstance(value, Tensor)}

    def _leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.running.pop()
        self.tallies[name].output_shape = self.tallies[name].output_shape or _first_shape(output)
        if isinstance(module, ParametrizationList) and isinstance(output, Tensor):
            self.computed.append(output)
            self.weights.add(_storage(output))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        product = PRODUCTS.get(operator_name(func).rstrip("_"))
        formula = self.formulas.get(func._overloadpacket)
        if product is None and formula is None:
            output = in_parts(self, func, args, kwargs)
            return func(*args, **kwargs) if output is NotImplemented else output
        output = func(*args, **kwargs)
        argument = partial(given, func, args, kwargs)
        if formula is not None:
            macs = formula(*args, **kwargs, out_val=output) // 2
        else:
            assert product is not None
            macs = product.macs(argument, lambda name: tuple((argument(name) if name else output).shape))
        for name in set(self.running):
            self.tallies[name].macs += macs
        innermost = self.tallies[self.running[-1]]
        innermost.own += macs
        for name in product.factors if product is not None else ():
            macs = self._thinned(macs, argument(name))
        innermost.own_nonzero += macs
        return output

    def _thinned(self, macs: int, factor: Tensor) -> int:
        """Multiply `macs` by the density of `factor` if it is a weight, or a part of one."""
        if not macs or _storage(factor) not in self.weights:
            return macs
        view = (factor.data_ptr(), factor.shape, factor.stride())
        if view not in self.nonzero:
            self.nonzero[view] = int(factor.count_nonzero())
        return macs * self.nonzero[view] // factor.numel()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _first_shape(value: Any) -> tuple[int, ...] | None:
    """The shape of the first tensor in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((shape for shape in map(_first_shape, items) if shape is not None), None)
