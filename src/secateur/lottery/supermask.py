"""Supermasks without training: the initial weights under masks chosen from initial and final weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.core.seeds import seed_of
from secateur.lottery.cutting import multiples
from secateur.lottery.mask_criteria import KEPT, MASK_CRITERIA, MASKED, MaskCriterion
from secateur.lottery.starts import StateDict
from secateur.sparsity.masks import Masks


def ask(
    initial: StateDict,
    final: StateDict,
    amount: float,
    *,
    criterion: str = "large_final_same_sign",
    kept: str = "rewind",
    masked: str = "zero",
    names: Iterable[str] | None = None,
    layer_rates: Mapping[str, float] | None = None,
    fresh: StateDict | None = None,
    seed: int = 0,
) -> tuple[dict[str, Tensor], Masks]:
    """Return the `state_dict` of the masked, untrained network, and its masks (Zhou et al. 2019).

    Of a layer of n weights with the multiple r, n − round(r · amount · n) are kept; of equal scores the later ones in
    the layer. A criterion of weights of the same sign keeps at most those. All other tensors (biases, normalisations
    and their statistics) are as in `initial`. The masks are True for kept weights, independent of the treatments.

    Args:
        initial: the model's `state_dict` before its training.
        final: the same after it.
        amount: masked fraction of each layer, from 0 to 1.
        criterion: rule for the kept weights, a name from `MASK_CRITERIA`.
        kept: treatment of the kept weights, a name from `KEPT`.
        masked: treatment of the masked weights, a name from `MASKED`.
        names: tensors to mask, in the model's order, such as those of
            `secateur.sparsity.targets.prunable(model)`; by default all floating-point tensors of 2 or more dimensions.
        layer_rates: multiples r of the amount for some layers, such as {"output": 0.5}; see `multiples`.
        fresh: another `state_dict`, newly drawn, for treatments such as reinit.
        seed: seed of random criteria and treatments.

    Raises:
        InputError: for unknown names, states of different models or with infinite or NaN weights, an amount out of
            range, and a treatment without its `fresh` weights.

    >>> before, after = {"w": torch.tensor([[1.0, -2.0, 3.0, 4.0]])}, {"w": torch.tensor([[9.0, 8.0, 7.0, 6.0]])}
    >>> state, masks = ask(before, after, 0.5)
    >>> state["w"]
    tensor([[1., 0., 3., 0.]])
    """
    rule, of_kept, of_masked = MASK_CRITERIA[criterion], KEPT[kept], MASKED[masked]
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount <= 1:
        raise InputError(f"The amount is {amount!r}: give the fraction to mask, from 0 to 1.")
    if "fresh" in of_kept.needs and fresh is None:
        raise InputError(f"{kept} puts new weights in: pass fresh=, the state_dict of a newly made model.")
    targets = _chosen(initial, names)
    state, masks = dict(initial), dict[str, Tensor]()
    for name, multiple in multiples(targets, layer_rates or {}).items():
        before = targets[name]
        after, stream = _like(before, final, name), _stream(seed, name)
        layer: dict[str, Any] = {"initial": before, "final": after, "stream": stream}
        share = multiple * amount
        if share > 1:
            raise InputError(
                f"{multiple:g} times the amount {amount:g} is more than all of {name}: give less."
            )
        masks[name] = layer["mask"] = _highest(rule, layer, before.numel() - round(share * before.numel()))
        if fresh is not None:
            layer["fresh"] = _like(before, fresh, name)
        state[name] = torch.where(layer["mask"], of_kept.of(layer), of_masked.of(layer))
    return state, Masks(masks)


def _highest(rule: MaskCriterion, layer: Mapping[str, Any], count: int) -> Tensor:
    """Return the mask of the `count` highest eligible scores, or of all if there are fewer; scored in float64."""
    exact = {name: each.double() if isinstance(each, Tensor) else each for name, each in layer.items()}
    scores = rule.of(exact)
    if rule.same_sign:
        same = layer["initial"].sign() == layer["final"].sign()
        scores, count = scores.masked_fill(~same, float("-inf")), min(count, int(same.sum()))
    order = scores.flatten().argsort(stable=True)
    mask = torch.zeros_like(order, dtype=torch.bool)
    mask[order[len(order) - count :]] = True
    return mask.reshape(scores.shape)


def _stream(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of("question", seed, name))


def _chosen(initial: StateDict, names: Iterable[str] | None) -> dict[str, Tensor]:
    """Return the tensors to mask, by name. Raises `InputError` for an unknown name, or none."""
    if names is None:
        names = [name for name, tensor in initial.items() if tensor.ndim > 1 and tensor.is_floating_point()]
    chosen = list(names)
    if missing := [name for name in chosen if name not in initial]:
        raise InputError(
            f"There is no tensor {missing[0]} in the initial weights: name tensors of the model."
        )
    if not chosen:
        raise InputError("There is nothing to mask: name a tensor of the model.")
    return {name: _like(initial[name], initial, name) for name in chosen}


def _like(before: Tensor, state: StateDict, name: str) -> Tensor:
    """Return the tensor `name` of `state`. Raises `InputError` for another shape, NaN or infinity."""
    if name not in state or state[name].shape != before.shape:
        raise InputError(f"{name} is not the same tensor in all weights given: they are of different models.")
    if not bool(state[name].isfinite().all()):
        raise InputError(f"{name} holds NaN or infinite weights: there is no ranking them.")
    return state[name].detach().to(before.device)
