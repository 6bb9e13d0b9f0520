"""Network slimming: an L1 penalty on the scales of BatchNorm, by which channels are pruned afterwards."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.core.errors import InputError, ModelError
from secateur.core.modules import named_modules
from secateur.methods.base import Method, MethodJob
from secateur.methods.registry import method

FORMS = ("subgradient", "proximal")


@method("slimming", paper="Liu et al. 2017")
class Slimming(Method):
    """Push the scales γ of BatchNorm towards 0 with λ |γ|, λ being `strength`; cut the channels afterwards.

    `form="subgradient"` adds λ sign(γ) to the gradient, as the paper does; `form="proximal"` instead takes the step
    first and then γ ← sign(γ) max(|γ| − η λ, 0), η being the learning rate, which makes exact zeros.
    """

    amount = "none"

    def __init__(self, job: MethodJob, *, strength: float = 1e-4, form: str = "subgradient") -> None:
        super().__init__(job)
        if form not in FORMS:
            raise InputError(f"There is no form '{form}' of slimming: choose {' or '.join(FORMS)}.")
        if not strength >= 0:
            raise InputError(f"The strength {strength!r} is no penalty: give a number from 0, such as 1e-4.")
        self.strength, self.form = strength, form
        self.scales = [
            module.weight
            for path, module in named_modules(job.model)
            if isinstance(module, _BatchNorm) and module.affine and job.meant(f"{path}.weight")
        ]
        if not self.scales:
            raise ModelError(
                f"{type(job.model).__name__} has no BatchNorm with scales: "
                "the method slimming looks at nothing else; take group_lasso."
            )

    def before_step(self) -> None:
        """Add the subgradient λ sign(γ)."""
        if self.form == "subgradient":
            for gamma in self.scales:
                self.push(gamma, self.strength * gamma.sign())

    def after_step(self) -> None:
        """Apply the proximal operator of η λ |γ|."""
        if self.form == "proximal":
            scales = {id(gamma) for gamma in self.scales}
            for group in self.job.optimizer.param_groups:
                for parameter in group["params"]:
                    if id(parameter) in scales:
                        soft_threshold_(parameter, group["lr"] * self.strength)


@torch.no_grad()
def soft_threshold_(gamma: nn.Parameter, threshold: float) -> None:
    """Set γ to sign(γ) max(|γ| − threshold, 0) in place: the minimum of ½ (x − γ)² + threshold |x|."""
    gamma.copy_(gamma.sign() * (gamma.abs() - threshold).clamp(min=0))
