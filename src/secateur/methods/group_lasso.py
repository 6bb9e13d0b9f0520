"""Group lasso: a penalty on the norms of whole channels, heads or features."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.methods.base import Method, MethodJob
from secateur.methods.registry import method
from secateur.methods.units import Units
from secateur.pruning.allocate_units import SPREADS, spread
from secateur.sparsity.masks import Masks


@method("group_lasso", paper="Yuan & Lin 2006, Wen et al. 2016")
class GroupLasso(Method):
    """Penalise λ Σ_u √n_u ‖θ_u‖₂ over units u, θ_u being the n_u weights of a unit; λ is `strength`.

    With an amount, that fraction of the units is cut in the end, those with the lowest ‖θ_u‖₂ / √n_u, spread by
    `scope` (local, global or isomorphic); the masks, and `cut` in a log, count their weights. Without one nothing is
    cut: prune channels afterwards.
    """

    amount = "optional"
    counts = "units"

    def __init__(self, job: MethodJob, *, strength: float = 1e-4, scope: str = "local") -> None:
        super().__init__(job)
        SPREADS[scope]
        if not strength >= 0:
            raise InputError(f"The strength {strength!r} is no penalty: give a number from 0, such as 1e-4.")
        self.strength, self.scope = strength, scope
        self.units = Units(job)

    def penalty(self) -> Tensor:
        """Return λ Σ_u √n_u ‖θ_u‖₂."""
        sizes = torch.cat(list(self.units.sizes.values()))
        squares = torch.cat(list(self.units.squares().values()))
        tiny = torch.finfo(squares.dtype).tiny  # the derivative of √ is infinite at 0
        return self.strength * ((sizes * squares).clamp(min=tiny)).sqrt().sum()

    def cut(self) -> Masks:
        """Cut the units with the lowest norms, if an amount was given."""
        if self.job.requested is None:
            return Masks({})
        return self.units.masks(lowest_cut(self.units, self.job.requested, self.scope))


def lowest_cut(units: Units, amount: float, scope: str) -> dict[str, Tensor]:
    """Return group → bool [units], True keeps, that cuts the units of the lowest mean θ²; one of each group stays.

    `amount` is a fraction of all units, spread by `scope` of `SPREADS`.
    """
    means = {
        name: (square.detach() / units.sizes[name]).double().cpu() for name, square in units.squares().items()
    }
    return dict(spread(units.groups, means, amount, scope))
