"""Prove that a smaller model computes what the large one computes without the units that went.

The large model runs with every removed index of its parameters zeroed, the small one as it is, both in float64 on the
example inputs; their outputs must agree to rounding. Where a normalisation's statistic runs over what was cut, the
large model computes that statistic over what stays, so that the comparison holds there too. The large model runs
its own code and its own sizes: nothing of the cut but the list of kept indices enters its side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.core.computed import computed_tensors
from secateur.core.contexts import evaluating, own_code_training, unfused
from secateur.core.copying import copy_with
from secateur.core.errors import ModelError, VerificationError, reason_of
from secateur.core.modules import named_modules
from secateur.core.seeds import same_draws
from secateur.graph.attention import attention_of, stand_in
from secateur.graph.cut import Cut
from secateur.graph.observers import rest
from secateur.graph.program import Node, refs
from secateur.graph.trace import tensors_of
from secateur.measure.examples import Examples
from secateur.measure.inputs import ModelInputs, arguments
from secateur.shrink.decisions import Decisions
from secateur.shrink.draws import Draws
from secateur.shrink.over_kept import NARROW, ResultSeen, Widened, crossing, type_for
from secateur.shrink.plan import named_tensors

VERIFICATION_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True)
class Verification:
    """How far the smaller model's outputs are from the large one's with the removed units zeroed.

    `error` is the largest difference over the largest output, `dtype` what both ran in, `exact` whether no statistic
    ran over what was cut; where one did, the large model computed it over what stays. `compared` is how many numbers
    were. `inside` says that the outputs were empty, such as boxes where nothing was found, so that what the layers
    with parameters return was compared instead, where it keeps its size.
    """

    error: float
    dtype: str
    exact: bool
    compared: int = 1
    inside: bool = False

    def __str__(self) -> str:
        reference = "zeroed" if self.exact else "zeroed, statistics over what stays"
        of = (
            "the largest output of a layer, the model's own being empty"
            if self.inside
            else "the largest output"
        )
        return f"largest difference {self.error:.1e} of {of}, in {self.dtype} ({reference})"


def verify(
    model: nn.Module,
    small: nn.Module,
    cut: Cut,
    example_inputs: ModelInputs | Examples,
    prepare: Callable[[nn.Module], None] = lambda large: None,
) -> Verification:
    """Compare the outputs of `model` with the cut's units zeroed to those of `small`.

    `prepare` may change the copy of the large model that runs, such as bypass the layers that went.
    Raises `VerificationError` where they differ by more than rounding, `ModelError` where there is nothing to compare.
    """
    affected = crossing(cut)
    for dtype in (torch.float64, torch.float32):
        compare = partial(run_both, model, small, cut, example_inputs, prepare, dtype, affected)
        try:
            outputs = compare()
            inside = not any(output.numel() for output in outputs[0])
            if inside:
                outputs = compare(_of_same_size(cut))
        except Exception as error:  # the model's own code may raise anything at a type it does not expect
            if dtype is torch.float32:
                raise VerificationError(
                    f"The smaller model could not be compared ({reason_of(error)})."
                ) from error
            continue
        apart = distance(*outputs)
        if not apart <= VERIFICATION_TOLERANCE[dtype]:
            raise VerificationError(
                f"The smaller model differs from the large one without those units by {apart:.1e} of its largest "
                f"output: it was thrown away. Keep more layers with keep=, or report the model."
            )
        compared = sum(int(output.isfinite().sum()) for output in outputs[0])
        if not compared:
            raise ModelError(
                f"Nothing that {type(model).__name__} returns on the example inputs can be compared: give inputs for "
                "which it returns finite numbers, or cut without a proof by verify=False."
            )
        return Verification(apart, str(dtype).removeprefix("torch."), not affected, compared, inside)
    raise AssertionError


def run_both(
    model: nn.Module,
    small: nn.Module,
    cut: Cut,
    example_inputs: ModelInputs | Examples,
    prepare: Callable[[nn.Module], None],
    dtype: torch.dtype,
    affected: dict[str, dict[int, Node]],
    inside: Collection[str] | None = None,
    seen: tuple[ResultSeen, ResultSeen] = (lambda op, out: None, lambda op, out: None),
) -> tuple[list[Tensor], list[Tensor]]:
    """Run the large model with the removed units zeroed, then the smaller one; return the outputs of both.

    With `inside`, the outputs of the modules at these paths instead. `seen` gets what each operator of either returns.
    """
    copies = _Copies(model, cut, dtype)
    large = copies.large()
    prepare(large)
    if affected:  # the same operators as in the trace, in the same order
        stand_in(large, attention_of(large, cut.coupling.program))
    draws, decisions = Draws(cut), Decisions(partial(_alike, dtype))
    widened = Widened(dtype, affected, cut, draws.first, decisions.first, seen[0])
    _forget(cut)
    expected = _run(large, example_inputs, dtype, widened, inside)
    del large
    widened = Widened(dtype, {}, cut, draws.again, decisions.again, seen[1])
    _forget(cut)
    try:
        return expected, _run(copies.small(small), example_inputs, dtype, widened, inside)
    finally:
        _forget(cut)


def _forget(cut: Cut) -> None:
    """Empty the caches in the code: tensors kept from one run have the widths and the type of one model."""
    for cache in cut.coupling.program.caches.values():
        cache.cache_clear()


def _alike(dtype: torch.dtype, left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether two lists of tensors are the same up to rounding."""
    return distance(left, right) <= VERIFICATION_TOLERANCE[dtype]


def _of_same_size(cut: Cut) -> set[str]:
    """Return the modules with parameters of their own that return what keeps its size."""
    program = cut.coupling.program
    owners = {name.rpartition(".")[0] for name in program.tensors}
    return {
        run.path
        for run in program.runs
        if run.path in owners
        and all(cut.shape(value) == program.values[value].shape for value in refs(run.outputs))
    }


def distance(left: list[Tensor], right: list[Tensor]) -> float:
    """Return the largest difference of two lists of outputs over the largest entry of the first; ∞ for other shapes."""
    if [tensor.shape for tensor in left] != [tensor.shape for tensor in right]:
        return float("inf")
    worst = 0.0
    for one, other in zip(left, right, strict=True):
        if not one.numel():
            continue
        wide = torch.complex128 if one.is_complex() else torch.float64
        one, other = one.to(wide), other.to(wide)
        finite = one.isfinite()
        if not torch.equal(finite, other.isfinite()):
            return float("inf")
        one, other = one[finite], other[finite]
        if one.numel():
            scale = float(one.abs().max())
            difference = float((one - other).abs().max())
            worst = max(worst, difference / scale if scale > 1e-30 else difference)
    return worst


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    dtype = type_for(tensor.dtype, dtype)
    if tensor.dtype == dtype:  # buffers and inputs may be written to
        return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()
    wide = tensor.detach().to(dtype)
    return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide


class _Copies:
    """Wide copies of both models' tensors: the large one's masked, those without a pattern given random entries."""

    def __init__(self, model: nn.Module, cut: Cut, dtype: torch.dtype) -> None:
        self.kept, self.dtype, self.model = cut.kept_indices(), dtype, model
        program = cut.coupling.program
        self.spared = {(program.values[value].name, dim) for value, dim in cut.coupling.divided}
        self.spared |= {(each.carrier, dim) for each in computed_tensors(model) for dim in each.rows()}
        self.drawn: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(0)
        for name, tensor in named_tensors(model).items():
            if tensor.dtype in (*NARROW, torch.float64) and _uniform(tensor):
                entries = torch.rand(tensor.shape, generator=generator, dtype=dtype) + 0.5
                self.drawn[name] = entries.to(tensor.device)

    def large(self) -> nn.Module:
        """The model with the removed indices of its parameters zeroed."""
        names = {id(tensor): name for name, tensor in named_tensors(self.model).items()}

        def masked(tensor: Tensor) -> Tensor:
            name = names.get(id(tensor), "")
            dims = self.kept.get(name, {}) if isinstance(tensor, nn.Parameter) else {}
            if not dims and name not in self.drawn:
                return _as(tensor, self.dtype)
            wide = self.drawn.get(name, tensor.detach()).to(type_for(tensor.dtype, self.dtype), copy=True)
            for dim, stay in dims.items():
                if (name, dim) in self.spared:  # its scale is zeroed instead
                    continue
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[stay] = False
                wide.index_fill_(dim, gone.nonzero().flatten().to(tensor.device), 0)
            return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide

        return copy_with(self.model, masked)

    def small(self, small: nn.Module) -> nn.Module:
        """The smaller model, with the same entries where they were drawn, and its own where it has others."""
        names = {id(tensor): name for name, tensor in named_tensors(small).items()}
        whole = named_tensors(self.model)

        def drawn(tensor: Tensor) -> Tensor:
            name = names.get(id(tensor), "")
            if name not in self.drawn or not bool((tensor == whole[name].flatten()[0]).all()):
                return _as(tensor, self.dtype)
            wide = self.drawn[name]
            for dim, stay in self.kept.get(name, {}).items():
                wide = wide.index_select(dim, stay.to(wide.device))
            return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide

        return copy_with(small, drawn)


def _uniform(tensor: Tensor) -> bool:
    """Whether all entries of a tensor are the same."""
    return (
        tensor.layout is torch.strided and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())
    )


def _run(
    model: nn.Module,
    example_inputs: ModelInputs | Examples,
    dtype: torch.dtype,
    widened: Widened,
    inside: Collection[str] | None,
) -> list[Tensor]:
    examples = Examples.of(model, example_inputs).calls
    heard: list[Tensor] = []
    for path, module in named_modules(model):
        if path in (inside or ()):
            module.register_forward_hook(lambda module, args, outputs: heard.extend(tensors_of(outputs)))
    rest(model)
    outputs: list[Tensor] = []
    with torch.no_grad(), unfused(), same_draws(), _default(dtype), widened:
        for each in widened.cut.coupling.program.passes:
            example = examples[each.example]
            args, kwargs = tree_map(
                lambda leaf: _as(leaf, dtype) if isinstance(leaf, Tensor) else leaf, arguments(example.inputs)
            )
            with (own_code_training if each.training else evaluating)(model):
                outputs += tensors_of(example.entry(model)(*args, **kwargs))
    return outputs if inside is None else heard


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
