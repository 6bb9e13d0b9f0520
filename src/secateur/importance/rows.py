"""Views of units: the filters that produce a unit, and the scales of its normalisations."""

from __future__ import annotations

from torch import Tensor

from secateur.graph.groups import Group, Member
from secateur.importance.parts import VIEWS, Question, ScoreParts, gather


@VIEWS.register("row")
def row_parts(question: Question) -> ScoreParts:
    """Score the rows of every matrix or kernel that produces a unit, [rows, weights per row] → [rows]."""
    score, options = question.criterion.unit, question.options
    with question.as_used() as used:
        parameters, roles = used.parameters(), used.roles()
        return {
            group.name: [
                gather(member, group.units, score(rows_of(parameters[member.name], member.dim), **options))
                for member in producers(group, roles)
            ]
            for group in used.groups
        }


@VIEWS.register("scale")
def scale_parts(question: Question) -> ScoreParts:
    """Score the scales of a unit's normalisations, [channels] → [channels]."""
    score, options = question.criterion.unit, question.options
    with question.as_used() as used:
        parameters, roles = used.parameters(), used.roles()
        return {
            group.name: [
                gather(member, group.units, score(parameters[member.name].detach(), **options))
                for member in group.members
                if roles.get(member.name) == "norms" and not member.name.endswith("bias")
            ]
            for group in used.groups
        }


def producers(group: Group, roles: dict[str, str]) -> list[Member]:
    """Return the members that produce a group's units: unsummed dimensions of matrices, kernels and embeddings."""
    return [m for m in group.members if not m.reads and roles.get(m.name) in ("weights", "embeddings")]


def rows_of(tensor: Tensor, dim: int) -> Tensor:
    """Return a tensor as a matrix with a row for each index of `dim`, in float32 at least."""
    rows = tensor.detach().movedim(dim, 0).flatten(1)
    return rows.float() if rows.dtype.itemsize < 4 else rows
