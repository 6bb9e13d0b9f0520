"""Prove that a smaller model computes what the large one computes without the units that went.

The large model runs with every removed index of its parameters zeroed, the small one as it is, both in float64 on the
example inputs; their outputs must agree to rounding. Where a normalisation's statistic runs over what was cut, the
large model computes that statistic over what stays, so that the comparison holds there too. The large model runs
its own code and its own sizes: nothing of the cut but the list of kept indices enters its side.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from secateur.errors import VerificationError, reason_of
from secateur.graph.cut import Cut
from secateur.graph.ghost import copy_with, is_plain_attention
from secateur.graph.program import Node, Ref
from secateur.graph.trace import tensors_of
from secateur.measure.inputs import Inputs, arguments
from secateur.modes import evaluating, unfused
from secateur.shrink.plan import named_tensors
from secateur.shrink.standins import stand_in

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
NARROW = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Verification:
    """How far the smaller model's outputs are from the large one's with the removed units zeroed.

    `error` is the largest difference over the largest output, `dtype` what both ran in, `exact` whether no statistic
    ran over what was cut; where one did, the large model computed it over what stays. `compared` is how many numbers
    were: none where the outputs are empty, such as boxes nothing was found for.
    """

    error: float
    dtype: str
    exact: bool
    compared: int = 1

    def __str__(self) -> str:
        if not self.compared:
            return "the outputs hold nothing to compare"
        reference = "zeroed" if self.exact else "zeroed, statistics over what stays"
        return f"largest difference {self.error:.1e} of the largest output, in {self.dtype} ({reference})"


def verify(
    model: nn.Module,
    small: nn.Module,
    cut: Cut,
    example_inputs: Inputs,
    prepare: Callable[[nn.Module], None] = lambda large: None,
) -> Verification:
    """Compare the outputs of `model` with the cut's units zeroed to those of `small`.

    `prepare` may change the copy of the large model that runs, such as bypass the layers that went.
    Raises `VerificationError` where they differ by more than rounding.
    """
    crossing = _crossing(cut)
    for dtype in (torch.float64, torch.float32):
        try:
            copies = _Copies(model, cut, dtype)
            large = copies.large()
            prepare(large)
            if crossing:  # the same operators as in the trace, in the same order
                stand_in(large, [name for name, each in large.named_modules() if is_plain_attention(each)])
            expected = _run(large, example_inputs, dtype, crossing, cut)
            del large
            outputs = expected, _run(copies.small(small), example_inputs, dtype, {}, cut)
        except Exception as error:  # the model's own code may raise anything at a type it does not expect
            if dtype is torch.float32:
                raise VerificationError(
                    f"The smaller model could not be compared ({reason_of(error)})."
                ) from error
            continue
        apart = distance(*outputs)
        if not apart <= TOLERANCE[dtype]:
            raise VerificationError(
                f"The smaller model differs from the large one without those units by {apart:.1e} of its largest "
                f"output: it was thrown away. Keep more layers with keep=, or report the model."
            )
        compared = sum(int(output.isfinite().sum()) for output in expected)
        return Verification(apart, str(dtype).removeprefix("torch."), not crossing, compared)
    raise AssertionError


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
    if tensor.dtype not in NARROW:  # buffers and inputs may be written to
        return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()
    wide = tensor.detach().to(dtype)
    return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide


class _Copies:
    """Wide copies of both models' tensors: the large one's masked, those without a pattern given random entries."""

    def __init__(self, model: nn.Module, cut: Cut, dtype: torch.dtype) -> None:
        self.kept, self.dtype, self.model = cut.kept_indices(), dtype, model
        program = cut.coupling.program
        self.spared = {(program.values[value].name, dim) for value, dim in cut.coupling.divided}
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
            wide = self.drawn.get(name, tensor.detach()).to(self.dtype, copy=True)
            for dim, stay in dims.items():
                if (name, dim) in self.spared:  # its scale is zeroed instead
                    continue
                gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
                gone[stay] = False
                wide.index_fill_(dim, gone.nonzero().flatten().to(tensor.device), 0)
            return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide

        return copy_with(self.model, masked)

    def small(self, small: nn.Module) -> nn.Module:
        """The smaller model, with the same entries where they were drawn."""
        names = {id(tensor): name for name, tensor in named_tensors(small).items()}

        def drawn(tensor: Tensor) -> Tensor:
            name = names.get(id(tensor), "")
            if name not in self.drawn:
                return _as(tensor, self.dtype)
            wide = self.drawn[name]
            for dim, stay in self.kept.get(name, {}).items():
                wide = wide.index_select(dim, stay.to(wide.device))
            return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide

        return copy_with(small, drawn)


def _uniform(tensor: Tensor) -> bool:
    """Whether all entries of a tensor are the same."""
    return tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())


def _run(
    model: nn.Module,
    example_inputs: Inputs,
    dtype: torch.dtype,
    crossing: dict[str, dict[int, Node]],
    cut: Cut,
) -> list[Tensor]:
    args, kwargs = tree_map(
        lambda leaf: _as(leaf, dtype) if isinstance(leaf, Tensor) else leaf, arguments(example_inputs)
    )
    widened = _Widened(dtype, crossing, cut)
    with evaluating(model), torch.no_grad(), unfused(), _same_draws(), _default(dtype), widened:
        return tensors_of(model(*args, **kwargs))


@contextmanager
def _same_draws() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _crossing(cut: Cut) -> dict[str, dict[int, Node]]:
    """Return the operators whose statistic runs over what is cut: name → how many came before → node."""
    affected = {id(node) for node, vector in cut.coupling.crossed if not cut.kept(vector).all()}
    count: Counter[str] = Counter()
    found: dict[str, dict[int, Node]] = defaultdict(dict)
    for node in cut.coupling.program.nodes:
        if id(node) in affected:
            found[node.op][count[node.op]] = node
        count[node.op] += 1
    return dict(found)


class _Widened(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps every number in `dtype`, and the statistics of some operators to what stays."""

    def __init__(self, dtype: torch.dtype, crossing: dict[str, dict[int, Node]], cut: Cut) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.crossing, self.cut = dtype, crossing, cut
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in NARROW:
            kwargs["dtype"] = self.dtype
        name = func._schema.name.partition("::")[2]
        nth = self.count[name]
        self.count[name] += 1
        node = self.crossing.get(name, {}).get(nth)
        return func(*args, **kwargs) if node is None else _over_kept(func, args, kwargs, node, self.cut)


def _over_kept(func: Callable[..., Any], args: Any, kwargs: Any, node: Node, cut: Cut) -> Any:
    """Run an operator on the kept indices of its first operand, and put what comes out back in its place."""
    source: Ref = node.args[0]
    whole: Tensor = args[0]
    stay = {
        dim: torch.from_numpy(np.flatnonzero(cut.kept(vector)))
        for dim, vector in enumerate(cut.coupling.dims[source.id])
        if vector is not None and not cut.kept(vector).all()
    }
    if tuple(whole.shape) != cut.coupling.program.values[source.id].shape:
        raise VerificationError(f"{node.op} met another shape than in the trace")
    part = whole
    for dim, indices in stay.items():
        part = part.index_select(dim, indices)
    rest = ADAPT[node.op](args, stay, part) if node.op in ADAPT else args[1:]
    out = func(part, *rest, **kwargs)

    whole_shapes = iter(node.outputs)

    def back(tensor: Any) -> Any:
        """Put an output's entries where they are in the large model, zeros elsewhere."""
        if not isinstance(tensor, Tensor):
            return tensor
        index = next(whole_shapes)
        shape, dims = cut.coupling.program.values[index].shape, cut.coupling.dims[index]
        for dim, vector in enumerate(dims):
            if vector is not None and tensor.shape[dim] != shape[dim]:
                kept = torch.from_numpy(np.flatnonzero(cut.kept(vector)))
                sizes = list(tensor.shape)
                sizes[dim] = shape[dim]
                tensor = tensor.new_zeros(sizes).index_copy(dim, kept, tensor)
        return tensor

    return tree_map(back, out)


def _layer_norm(args: Any, stay: dict[int, Tensor], part: Tensor) -> list[Any]:
    """Scale and shift lose the indices the input loses."""
    shape = list(part.shape[-len(args[1]) :])
    rest: list[Any] = [shape]
    for affine in args[2:]:
        if isinstance(affine, Tensor):
            for dim, indices in stay.items():
                back = dim - part.ndim
                if -back <= affine.ndim:
                    affine = affine.index_select(back, indices)
        rest.append(affine)
    return rest


def _group_norm(args: Any, stay: dict[int, Tensor], part: Tensor) -> list[Any]:
    scale, shift, batch, _, size, groups, eps = args[1:]
    kept = stay[1]
    affine = [None if each is None else each.index_select(0, kept) for each in (scale, shift)]
    return [*affine, batch, part.shape[1], size, groups, eps]


def _batch_norm(args: Any, stay: dict[int, Tensor], part: Tensor) -> list[Any]:
    """Everything there is one of for each channel."""
    if 1 not in stay:
        return list(args[1:])
    return [each.index_select(0, stay[1]) if isinstance(each, Tensor) else each for each in args[1:]]


ADAPT: dict[str, Callable[..., list[Any]]] = {
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_batch_norm_with_update": _batch_norm,
}
