"""Trace a model: run it once and write down what it computed.

The pass runs on a ghost of the model with tensors that have shapes but no numbers, so a model of any size is traced in
its number of operators: meta tensors, or, where the code mixes devices, fake ones. A model whose code looks at numbers
(`.item()`, detection) runs on its real ones instead. Kernels that hide several operators in one (fused attention,
recurrent cells, the encoder's fast path) are switched off for the pass, so that what they do is seen. The user's model
is never touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from secateur.core.contexts import evaluating, own_code_training, unfused
from secateur.core.copying import copy_with
from secateur.core.errors import ModelError, reason_of
from secateur.core.modules import named_modules
from secateur.core.seeds import same_draws
from secateur.graph.attention import stand_in
from secateur.graph.caches import Caches
from secateur.graph.copies import is_plain_attention, like, tag_attributes
from secateur.graph.observers import couple_ranges
from secateur.graph.program import Pass, Program
from secateur.graph.recorder import CallArguments, Recorder
from secateur.graph.sizes import remembering
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs, arguments


def trace(model: nn.Module, example_inputs: ModelInputs | Examples, *, training: bool = False) -> Program:
    """Run `model` in eval mode on the example inputs, one after the other, and return what it computed.

    With `training`, a model of which parameters are not reached runs a second time with its own code in training mode,
    where that reaches some of them: auxiliary heads, for example. Raises `ModelError` for a model that can't run on
    the inputs.
    """
    failure, examples = Exception(), Examples.of(model, example_inputs)
    for kind in TRACE_MODES:
        program, error = attempt(model, examples, kind)
        if error is None:
            return (training and _trained(model, examples, program)) or program
        if isinstance(error, ModelError):
            raise error
        failure = error
    raise ModelError(
        f"{type(model).__name__} does not run on example inputs of shape {examples} "
        f"({reason_of(failure)}): give what its forward takes, as a tensor, a tuple, or a dict of keywords."
    ) from failure


def _trained(model: nn.Module, examples: Examples, program: Program) -> Program | None:
    """Return the program of both modes where training mode reaches parameters that eval mode does not."""
    if not program.unreached:
        return None
    both, error = attempt(model, examples, program.tensors_were, training=True)
    return both if error is None and len(both.unreached) < len(program.unreached) else None


def attempt(
    model: nn.Module, example_inputs: ModelInputs | Examples, kind: str, *, training: bool = False
) -> tuple[Program, Exception | None]:
    """Trace on tensors of one of `TRACE_MODES`, with `training` in both modes.

    Returns what was recorded, and the error that ended it, if one did.
    """
    examples = Examples.of(model, example_inputs)
    substitute: Callable[[Tensor], Tensor] = TRACE_MODES[kind]
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    caches, program = Caches(), Program(tensors_were=kind)
    with same_draws(), remembering(caches.forget), ExitStack() as stack:
        stack.callback(lambda: caches.leave(program.caches.values()))
        stack.callback(setattr, logger, "disabled", logger.disabled)
        logger.disabled = True  # what fails here is told in one sentence, or tried in another way
        if kind == "meta":
            stack.enter_context(torch.device("meta"))
        elif kind == "fake":
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        ghost = copy_with(model, substitute, HELD[kind])
        try:
            recorder = _recorder(ghost, model, program)
            for number, example in enumerate(examples):
                inputs = tree_map(
                    lambda leaf: substitute(leaf) if isinstance(leaf, Tensor) else leaf,
                    arguments(example.inputs),
                )
                recorder.name_inputs(inputs)
                for mode in (False, True) if training else (False,):
                    program.passes.append(
                        Pass(number, mode, str(example), len(program.nodes), len(program.calls))
                    )
                    _record(ghost, example.entry(ghost), inputs, recorder)
        except Exception as error:
            return program, error
    return program, None


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _held_on_meta(tensor: Tensor) -> Tensor:
    return like(tensor, "meta") if tensor.layout is torch.strided else tensor


TRACE_MODES = {
    "meta": lambda tensor: like(tensor, "meta"),
    "fake": lambda tensor: like(tensor, "cpu"),
    "real": lambda tensor: (
        tensor if isinstance(tensor, nn.Parameter) else tensor.clone()
    ),  # may be written to
}
"""What a pass can run on, fastest first: each kind knows more of a tensor than the one before."""

HELD: dict[str, Callable[[Tensor], Tensor]] = {
    "meta": _held_on_meta,
    "fake": _itself,
    "real": lambda tensor: tensor.detach().clone(),  # may be written to
}
"""What stands for a tensor that a module holds unregistered, by kind."""


def _recorder(ghost: nn.Module, model: nn.Module, program: Program) -> Recorder:
    stand_in(ghost, [name for name, module in named_modules(ghost) if is_plain_attention(module)])
    couple_ranges(ghost)
    program.attributes.update(tag_attributes(ghost, model))
    recorder = Recorder(program, ghost)
    recorder.name_tensors(ghost)
    recorder.follow(ghost)
    return recorder


def _record(ghost: nn.Module, entry: Callable[..., Any], inputs: CallArguments, recorder: Recorder) -> None:
    mode = own_code_training if recorder.program.passes[-1].training else evaluating
    with mode(ghost), torch.no_grad(), unfused():
        outputs = recorder.run(entry, inputs)
    recorder.program.outputs += [recorder.read(leaf) for leaf in tensors_of(outputs)]


PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type)


def tensors_of(outputs: Any) -> list[Tensor]:
    """Return the tensors a model returned, from any nest of tuples, lists, sets, dicts and objects with fields.

    A cache of keys and values for later calls is no output: its size may change with the model's. Raises `ModelError`
    for what can't be looked into.
    """
    return list(_walk(outputs, set()))


def _walk(outputs: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
        return
    if isinstance(outputs, PLAIN_TYPES) or id(outputs) in seen or "Cache" in type(outputs).__name__:
        return
    seen.add(id(outputs))
    if isinstance(outputs, list | tuple | set | frozenset):
        parts = list(outputs)
    elif isinstance(outputs, Mapping):
        parts = [item for key, item in outputs.items() if key != "past_key_values"]
    elif hasattr(outputs, "__dict__") and not callable(outputs) and not hasattr(outputs, "__next__"):
        parts = list(vars(outputs).values())
    else:
        raise ModelError(
            f"The model returns a {type(outputs).__name__}, which can't be compared: return tensors, in tuples, dicts "
            "or objects with fields."
        )
    for part in parts:
        yield from _walk(part, seen)
