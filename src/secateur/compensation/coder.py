"""Application of an encoder and a decoder to all tensors of a group: n units become m.

Producers of the units become encoder · tensor, readers tensor · decoder, along the group's dimension and unit by unit:
the indices of a unit that is a block, such as a head, keep their order. Tensors keep their size: the m new units lie at
the places of the kept ones, with zeros at the others, so that several groups may share a dimension and a group may have
several; the plan then removes the zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from secateur.compensation.normed import BatchNormed
from secateur.graph.groups import Group, Member
from secateur.importance.folding import Chain


@dataclass(frozen=True)
class Code:
    """The encoder and decoder of a group of n units.

    `encoder`, float64 [m, n], maps the old units to the new, `decoder`, float64 [n, m], the new to the old, and `kept`,
    int64 [m], holds the old units whose places the new ones take.
    """

    group: Group
    kept: Tensor
    encoder: Tensor
    decoder: Tensor


class CodedDimension(NamedTuple):
    """One dimension of one tensor, and its code."""

    member: Member
    code: Code


def even(member: Member, units: int) -> bool:
    """Whether all units of a group have the same number of indices in this dimension."""
    counts = np.bincount(member.unit[member.unit >= 0], minlength=units)
    return bool((counts == counts[0]).all() and counts[0] > 0)


def places(member: Member, units: int) -> Tensor:
    """Return the dimension's indices of each unit, int64 [units, indices of a unit]; they must be `even`."""
    order = np.argsort(member.unit, kind="stable")[np.count_nonzero(member.unit < 0) :]
    return torch.from_numpy(order.reshape(units, -1))


def taken(tensor: Tensor, member: Member, units: int) -> Tensor:
    """Return the block of a tensor for each unit, [units, indices of a unit, rest …]."""
    return tensor.movedim(member.dim, 0)[places(member, units).to(tensor.device)]


def put(tensor: Tensor, job: CodedDimension, blocks: Tensor) -> Tensor:
    """Return a tensor with `blocks`, [m, indices of a unit, rest …], for the kept units, and zeros for the others."""
    index = places(job.member, job.code.group.units).to(tensor.device)
    new = tensor.clone()
    along = new.movedim(job.member.dim, 0)
    along[index.flatten()] = 0
    along[index[job.code.kept.to(index.device)].flatten()] = blocks.flatten(0, 1)
    return new


def mixed(matrix: Tensor, blocks: Tensor) -> Tensor:
    """Return matrix · blocks: [m, n] times [n, rest …]."""
    return torch.einsum("mn,n...->m...", matrix.to(blocks.device), blocks)


def coded(
    tensors: Mapping[str, Tensor], codes: Sequence[Code], chains: Mapping[str, Chain]
) -> dict[str, Tensor]:
    """Return new values, float64 of the old shapes, for all tensors of coded groups, by name.

    A product and the batch normalisation that alone reads it, one of `chains`, are coded as one linear map, as in eval
    mode.
    """
    jobs: dict[str, list[CodedDimension]] = {}
    for code in codes:
        for member in code.group.members:
            jobs.setdefault(member.name, []).append(CodedDimension(member, code))
    new: dict[str, Tensor] = {}
    for name, own in jobs.items():
        new[name] = tensors[name].detach().double()
        for job in own:
            if job.member.reads:
                new[name] = put(new[name], job, _coded(new[name], job, job.code.decoder.T))
    for name, own in jobs.items():
        for job in own:
            if not job.member.reads and not any(_follows(chain, job) for chain in chains.values()):
                new[name] = put(new[name], job, _coded(new[name], job, job.code.encoder))
    for chain in chains.values():
        for job in jobs.get(chain.weight, ()):
            if _follows(chain, job):
                new.update(_chain(new, chain, job.code))
    return new


def _coded(tensor: Tensor, job: CodedDimension, matrix: Tensor) -> Tensor:
    return mixed(matrix, taken(tensor, job.member, job.code.group.units))


def _follows(chain: Chain, job: CodedDimension) -> bool:
    """Whether a dimension is coded with the other tensors of a chain."""
    found = _members(chain, job.code.group)
    return found is not None and any(job.member is member for member in found.values())


def _members(chain: Chain, group: Group) -> dict[str, Member] | None:
    """Return name → member of a group in each tensor of a chain; None unless all have the same units."""
    found = {
        member.name: member
        for member in group.members
        if member.name in chain.names
        and not member.reads
        and (member.name != chain.weight or member.dim == chain.dim)
    }
    units = [member.unit for member in found.values()]
    whole = found.keys() == set(chain.names) and all(np.array_equal(units[0], unit) for unit in units)
    return found if whole else None


def _chain(tensors: Mapping[str, Tensor], chain: Chain, code: Code) -> dict[str, Tensor]:
    members = _members(chain, code.group)
    assert members is not None
    parts = {name: taken(tensors[name], member, code.group.units) for name, member in members.items()}
    bias = parts[chain.bias] if chain.bias else None
    scale, shift, mean, variance = (parts[name] for name in chain.norm)
    before = BatchNormed(parts[chain.weight], bias, scale, shift, mean, variance, chain.epsilon)
    after = before.encoded(code.encoder.to(before.weight.device), code.kept)
    new = {chain.weight: after.weight}
    new |= zip(chain.norm, (after.scale, after.shift, after.mean, after.variance), strict=True)
    if chain.bias and after.bias is not None:
        new[chain.bias] = after.bias
    return {
        name: put(tensors[name], CodedDimension(members[name], code), blocks) for name, blocks in new.items()
    }
