"""The groups of a model: which indices live and die together, and which must stay."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from secateur.core.errors import ModelError
from secateur.core.modules import named_parameters
from secateur.core.wrapped import unwrapped
from secateur.graph.couple import couple
from secateur.graph.groups import Groups, group
from secateur.graph.other_sizes import trace_sizes
from secateur.graph.trace import trace
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs
from secateur.sparsity.targets import require_module


def analyze(model: nn.Module, example_inputs: ModelInputs, *, other_sizes: bool = True) -> Groups:
    """Find which indices of which tensors live and die together, and what must stay and why.

    `example_inputs` is a tensor, a tuple of arguments or a dict of keyword arguments; a list of several of these, such
    as two resolutions; or a dict from methods of the model to what they take, `{"encode": x, "decode": z}`. With
    `other_sizes` (the default) the model is also traced at a second size of one example's batch, height and width or
    length, where it takes one. The model is not touched and may be on the meta device. Raises `ModelError` for a model
    that can't run on the inputs.

    >>> groups = analyze(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(1, 4))
    >>> [(group.name, group.units) for group in groups.free]
    [('0.weight', 3)]
    """
    require_module(model)
    model = unwrapped(model)
    for name, parameter in named_parameters(model):
        if is_lazy(parameter):
            raise ModelError(f"{name} has no shape yet: run the lazy module once.")
    examples = Examples.of(model, example_inputs)
    program = trace_sizes(model, examples)[0] if other_sizes else trace(model, examples, training=True)
    return group(couple(program))
