"""Apply a plan: the same model, smaller.

The result has the class, the hooks, the modes and the frozen state of what it was made from; tied tensors stay tied;
parameters keep their class, type, device, memory layout and gradient. The copy is made small from the start: no dense
one is made on the way.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from secateur.core.contexts import evaluating
from secateur.core.copying import copied_tensor, copy_with, forget_caches
from secateur.core.modules import modules_of
from secateur.graph.attention import stand_in
from secateur.graph.forwards import restore
from secateur.shrink.describe import describe, set_attributes
from secateur.shrink.overrides import function_called, resize
from secateur.shrink.plan import Plan, named_tensors
from secateur.shrink.skip import skip

REMADE = (WeightNorm, SpectralNorm, BasePruningMethod)
"""Hooks that compute a weight from other tensors before each forward."""


def apply(model: nn.Module, plan: Plan, *, inplace: bool = False, share: bool = False) -> nn.Module:
    """Return `model` as `plan` says: a smaller copy, or the model itself where `inplace`.

    The result remembers what was done to it, earlier cuts included, in its attribute `secateur_plan`. An optimiser of
    a model changed in place, or about to go on with the copy, is put right by `shrink_optimizer`. With `share`, a copy
    shares with the model what can't be copied.

    Raises `ModelError` where the plan belongs to another model, `InputError` where it overrides calls of functions
    that torch lacks or does not follow from the cuts this model has had; the model is then as it was.
    """
    plan.check(model)
    earlier: Plan = getattr(model, "secateur_plan", Plan())
    whole = earlier.then(plan)
    for override in whole.overrides:
        function_called(override.function)
    if not inplace:
        model = _smaller_copy(model, plan, share)
    with evaluating(model):  # in training mode some tensors move whenever they are read
        _change(model, plan, whole, inplace)
    object.__setattr__(model, "secateur_plan", whole)
    return model


def _change(model: nn.Module, plan: Plan, whole: Plan, inplace: bool) -> None:
    """Make tensors, attributes and forwards of a model what a plan says; `whole` is this plan after earlier ones."""
    set_attributes(model, plan.attributes)
    if inplace:
        _slice_in_place(model, plan)
    forget_caches(model)
    for module in modules_of(model):
        _remake(module)
    describe(model, plan.kept, plan.attributes)
    restore(model)
    stand_in(model, (path for path in whole.standins if whole.holds(path)))
    resize(model, (override for override in whole.overrides if whole.holds(override.module)))
    skip(model, whole.skipped, whole.factors)
    for module in modules_of(model):
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # cuDNN wants them side by side


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of `model`, also of one whose modules hold tensors that they compute before each forward."""
    copy = _smaller_copy(model, Plan(), share=False)
    for module in modules_of(copy):
        _remake(module)
    return copy


def _smaller_copy(model: nn.Module, plan: Plan, share: bool) -> nn.Module:
    """Copy the model with every tensor small from the start."""
    names = {id(tensor): name for name, tensor in named_tensors(model).items()}
    return copy_with(
        model,
        lambda tensor: copied_tensor(tensor, partial(plan.slice, names[id(tensor)])),
        lambda tensor: tensor.detach().clone(),
        share=share,
    )


def _slice_in_place(model: nn.Module, plan: Plan) -> None:
    """Give the tensors less data; the objects stay, and with them optimisers, ties and whoever else holds them."""
    tensors = named_tensors(model)
    for name in plan.kept:
        tensor = tensors[name]
        gradient, tensor.grad = tensor.grad, None
        tensor.data = plan.slice(name, tensor.detach())
        tensor.grad = None if gradient is None else plan.slice(name, gradient)


def _remake(module: nn.Module) -> None:
    """Compute the weights once more that are no parameters but computed from some."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, REMADE):
            with evaluating(module):
                hook(module, ())
