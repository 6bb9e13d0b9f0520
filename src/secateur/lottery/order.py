"""The order of a search's trainings, and the parent whose weights each one's cut is of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from secateur.core.errors import InputError
from secateur.lottery.starts import STARTS
from secateur.sparsity.granularity import parse


class PlannedTraining(NamedTuple):
    """One training: of level `number`, counted from 1, from `start`, after a cut of the network of `parent`.

    A parent is a start and a level; None is the dense training.
    """

    number: int
    start: str
    parent: tuple[str, int] | None


def order(starts: Sequence[str], levels: int, one_shot: bool = False) -> Iterator[PlannedTraining]:
    """Yield a search's trainings, level by level, each after its parent.

    Each start that leads forms a chain: its cut is of its own network of the level before. All others have the cut of
    the first start that leads. With `one_shot` (default off) every level is cut from the dense training. Raises
    `InputError` for an unknown start, one named twice, or starts of which none leads.

    >>> [(job.start, job.number, job.parent) for job in order(["weights", "reinit"], 2)][2:]
    [('weights', 2, ('weights', 1)), ('reinit', 2, ('weights', 1))]
    """
    leading = [name for name in starts if STARTS[name].leads]
    if not leading:
        names = ", ".join(name for name, start in STARTS.items() if start.leads)
        raise InputError(
            f"Of the starts {', '.join(starts) or '(none)'} none leads: add one whose masks the others take, {names}."
        )
    for name in starts:
        if list(starts).count(name) > 1:
            raise InputError(f"The start {name} is named twice: name each once.")
    for number in range(1, levels + 1):
        for name in starts:
            chain = name if STARTS[name].leads else leading[0]
            yield PlannedTraining(number, name, None if one_shot or number == 1 else (chain, number - 1))


def check_shuffled(starts: Sequence[str], granularity: str) -> None:
    """Raise `InputError` if a start shuffles masks and the granularity is not single weights."""
    kind = parse(granularity)
    drawn = next((name for name in starts if "seed" in STARTS[name].needs), None)
    if drawn is None or kind.single:
        return
    if kind.removes:
        raise InputError(
            f"A smaller network has no masks to shuffle: leave the start {drawn} out. Which {kind}s of newly drawn "
            "weights stay does not matter, so that reinit is its random subnetwork."
        )
    raise InputError(f"Shuffled masks keep no pattern {kind}: leave the start {drawn} out.")


def check_finetune(starts: Sequence[str], epochs: int | None) -> None:
    """Raise `InputError` if epochs of fine-tuning are given, and none of the starts fine-tunes."""
    tuned = [name for name, start in STARTS.items() if start.training == "finetuned"]
    if epochs is not None and not set(tuned) & set(starts):
        raise InputError(
            f"Nothing is fine-tuned from {', '.join(starts)}: add {' or '.join(tuned)} to the starts, or leave "
            "finetune out."
        )
