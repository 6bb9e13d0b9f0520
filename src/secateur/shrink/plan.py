"""What a structured cut changes, as a value: which indices of which tensors stay, and which sizes in code follow.

A plan is an outer product for each tensor, so that every tensor stays dense: for each of its dimensions that shrinks,
the indices that stay. A plan checks itself when it is made, fits only a model of the shapes it names, composes with
a later plan, and packs itself into tensors and JSON for storage.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.core.brief import Brief
from secateur.core.errors import InputError, ModelError
from secateur.core.modules import named_buffers, named_modules, named_parameters
from secateur.core.typed_json import TypeMismatch, typed

ArgumentPath = tuple[int | str, ...]
"""Position or keyword of an argument of a call, then the index, key or end of a slice in it."""


@dataclass(frozen=True)
class Override:
    """A number in a module's code that is replaced each time the code runs: a size, or a scale made from one.

    `module` is the path of the module of which `method` is running ("" for the model itself); `function` the torch
    function it calls, by its `call_name`; `nth` which of its calls of that function, counted from 0, those of what it
    calls included. `argument` leads to the number: the position or keyword of an argument, then the index, key
    or slice field (`start`, `stop`, `step`) inside it; (1, 2) is `args[1][2]`. `value` is put in its place.
    `of` is how many such calls the method makes; 0 where that is not known. With `instead_of`, all of its calls are
    meant that have this number there, whichever and however many they are: loops and branches.
    """

    module: str
    function: str
    nth: int
    argument: ArgumentPath
    value: int | float
    of: int = 0
    method: str = "forward"
    instead_of: int | float | None = None


@dataclass(frozen=True, repr=False)
class Plan(Brief):
    """What stays of a model.

    `kept` maps the name of a parameter or buffer (the first name of a tied one) to dimension → kept indices, int64
    and ascending, at least one. `shapes` holds the shape each tensor in `kept` had before. `attributes` maps
    "module.path:attribute" to the attribute's new value; the attribute may be an item of a tuple or list
    ("norm:normalized_shape.0") or belong to an object the module holds ("layers.0.attention:config.num_heads").
    `overrides` are the numbers replaced in code, `standins` the paths of the attention modules whose
    forward is replaced by one that takes its sizes from its weights.

    `skipped` are the modules, by path, that hand on their first tensor and hold nothing any more; the number is how
    many items they return, 0 for a tensor alone. `factors` are what that tensor is multiplied by, by path, where it is
    not 1; 0 for a branch that becomes zeros.

    Raises `InputError` where the indices make no sense for the shapes.
    """

    kept: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: Mapping[str, int] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    standins: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kept.keys() != self.shapes.keys():
            name = min(self.kept.keys() ^ self.shapes.keys())
            raise InputError(f"The plan gives only one of kept indices and full shape for {name}: give both.")
        for name, dims in self.kept.items():
            for dim, indices in dims.items():
                _check_indices(name, self.shapes[name], dim, indices)
        for override in self.overrides:
            if not override.argument:
                raise InputError(f"An override of {override.function} names no argument: say which one.")
        if foreign := sorted(self.factors.keys() - self.skipped.keys()):
            raise InputError(f"The plan gives a factor for {foreign[0]}, which it does not skip.")

    def __deepcopy__(self, memo: Any) -> Plan:
        return self  # a value: nothing of it ever changes

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.kept or self.attributes or self.overrides or self.standins or self.skipped)

    @property
    def methods(self) -> list[str]:
        """The methods that hold overridden numbers, such as "decoder.forward"."""
        return list(dict.fromkeys(f"{o.module}.{o.method}".lstrip(".") for o in self.overrides))

    def slice(self, name: str, tensor: Tensor) -> Tensor:
        """Return what stays of the tensor called `name`, a copy in the same memory layout.

        All of it stays where the plan does not name it. So does a dimension of size 1, which stands for all indices
        alike.
        """
        rows = {dim: kept for dim, kept in self.kept.get(name, {}).items() if tensor.shape[dim] > 1}
        if not rows:
            return tensor.clone()
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        small = tensor.permute(order)
        for dim, indices in rows.items():
            small = small.index_select(order.index(dim), indices.to(tensor.device))
        return small.permute([order.index(dim) for dim in range(tensor.ndim)])

    def shape_after(self, name: str) -> tuple[int, ...]:
        """Return the shape that stays of the tensor called `name`, which the plan must name."""
        sizes = list(self.shapes[name])
        for dim, indices in self.kept[name].items():
            sizes[dim] = len(indices)
        return tuple(sizes)

    def check(self, model: nn.Module) -> None:
        """Raise `ModelError` unless `model` has the tensors and modules this plan names, at the full shapes."""
        tensors = named_tensors(model)
        for name, shape in self.shapes.items():
            if name not in tensors:
                raise ModelError(f"The plan cuts {name}, which this model does not have.")
            if tuple(tensors[name].shape) != tuple(shape):
                raise ModelError(
                    f"The plan cuts {name} of shape {list(shape)}, here it is {list(tensors[name].shape)}: "
                    "the plan belongs to another model, or to this one as it was before another cut."
                )
        modules = dict(named_modules(model, remove_duplicate=False))
        paths = [*(path.partition(":")[0] for path in self.attributes), *self.standins, *self.skipped]
        for path in (*paths, *(override.module for override in self.overrides)):
            if path not in modules:
                raise ModelError(f"The plan changes the module {path}, which this model does not have.")
        for override in self.overrides:
            if not _can_be_taken_over(modules[override.module], override.method):
                name = f"{override.module}.{override.method}".lstrip(".")
                raise ModelError(f"The plan overrides a number in {name}, which is no method of this model.")
        for path in self.standins:
            if not _may_attend(modules[path]):
                raise ModelError(f"The plan stands in for {path}, which is no attention here.")

    def then(self, later: Plan) -> Plan:
        """Return the plan that does what this and then `later`, a plan for the result, do.

        Raises `InputError` where the two don't fit each other.
        """
        kept: dict[str, Mapping[int, Tensor]] = dict(self.kept)
        for name, dims in later.kept.items():
            before = self.kept.get(name, {})
            if before and self.shape_after(name) != tuple(later.shapes[name]):
                raise InputError(
                    f"The first plan leaves {list(self.shape_after(name))} of {name}, the second starts from "
                    f"{list(later.shapes[name])}: they do not follow each other."
                )
            kept[name] = {
                **before,
                **{dim: before[dim][rows] if dim in before else rows for dim, rows in dims.items()},
            }
        places = {
            (o.module, o.method, o.function, o.nth, o.argument, o.instead_of): o
            for o in (*self.overrides, *later.overrides)
        }
        return Plan(
            kept=kept,
            shapes={**later.shapes, **self.shapes},
            attributes={**self.attributes, **later.attributes},
            overrides=tuple(places.values()),
            standins=tuple(dict.fromkeys((*self.standins, *later.standins))),
            skipped={**self.skipped, **later.skipped},
            factors={**self.factors, **later.factors},
        )

    def holds(self, path: str) -> bool:
        """Whether the module at `path` is still there once the skipped ones are emptied."""
        return not any(path.startswith(f"{gone}.") or path == gone for gone in self.skipped)

    @property
    def counts(self) -> tuple[int, int]:
        """How many numbers of the tensors named here stay, and how many there were."""
        after = sum(math.prod(self.shape_after(name)) for name in self.kept)
        return after, sum(math.prod(shape) for shape in self.shapes.values())

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the plan for storage: int32 tensors named "keep:{dim}:{name}", and the rest as JSON."""
        tensors = {
            f"keep:{dim}:{name}": indices.to(torch.int32)
            for name, dims in self.kept.items()
            for dim, indices in dims.items()
        }
        about = {
            "shapes": dict(self.shapes),
            "attributes": dict(self.attributes),
            "overrides": [vars(override) for override in self.overrides],
            "standins": self.standins,
            "skipped": dict(self.skipped),
            "factors": dict(self.factors),
        }
        return tensors, json.loads(json.dumps(about))

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], about: Any) -> Plan:
        """Undo `pack`. Raises `InputError` for anything that `pack` would not have given."""
        try:
            rest: _About = typed(_About, about)
        except TypeMismatch as error:
            place = error.place or "the whole"
            raise InputError(f"This is no plan: {place} is not what a plan says there.") from None
        kept: dict[str, dict[int, Tensor]] = {name: {} for name in rest.shapes}
        for key, indices in tensors.items():
            found = re.fullmatch(r"keep:(\d{1,3}):(.+)", key, re.ASCII)
            if found is None or found[2] not in kept or indices.dtype != torch.int32:
                raise InputError(f"This is no plan: the tensor {key} does not belong to one.")
            kept[found[2]][int(found[1])] = indices.to(torch.int64)
        return cls(kept, **vars(rest))


@dataclass(frozen=True)
class _About:
    """What of a plan is JSON."""

    shapes: dict[str, tuple[int, ...]]
    attributes: dict[str, int]
    overrides: tuple[Override, ...]
    standins: tuple[str, ...]
    skipped: dict[str, int] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)


def _can_be_taken_over(module: nn.Module, method: str) -> bool:
    """Whether a module has a method of that name that is its own, not torch's for all modules."""
    own = method == "forward" or not hasattr(nn.Module, method)
    return own and inspect.isfunction(inspect.getattr_static(type(module), method, None))


def _may_attend(module: nn.Module) -> bool:
    """Whether a module is torch's attention, or has a forward of its own that may call torch's attention function."""
    foreign = not type(module).__module__.startswith("torch.")
    return isinstance(module, nn.MultiheadAttention) or (foreign and _can_be_taken_over(module, "forward"))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of `model` by name, tied ones once, by their first name."""
    return dict([*named_parameters(model), *named_buffers(model)])


def _check_indices(name: str, shape: tuple[int, ...], dim: int, indices: Tensor) -> None:
    """Raise `InputError` unless `indices` are ascending positions along dimension `dim` of `shape`."""
    if not 0 <= dim < len(shape):
        raise InputError(f"The plan cuts dimension {dim} of {name}, which has {len(shape)}.")
    if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or indices.ndim != 1:
        raise InputError(f"What the plan keeps of {name} must be a vector of int64 indices.")
    if len(indices) == 0:
        raise InputError(f"The plan keeps nothing of dimension {dim} of {name}: keep at least one index.")
    if int(indices[0]) < 0 or int(indices[-1]) >= shape[dim] or not bool((indices.diff() > 0).all()):
        raise InputError(
            f"What the plan keeps of dimension {dim} of {name} must ascend within 0 to {shape[dim] - 1}."
        )
