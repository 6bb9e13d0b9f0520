"""Synchronised forward passes of the model before and after a cut, to fit the pruned model layer by layer.

A step observes one value in both models during the pass and may then change the pruned model's tensors; later steps of
the same pass observe the changed model, so one pass over the data is enough. With several batches, a step observes all
of them before it acts, and passes are repeated up to the next step. Memory holds the activations of one batch,
independent of the number of steps and samples.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from secateur.core.contexts import no_fast_path
from secateur.core.errors import InputError
from secateur.core.progress import track
from secateur.core.seeds import same_draws
from secateur.criteria.calibration import Calibration
from secateur.graph.probe import Probe, TensorPlace
from secateur.graph.program import Program
from secateur.measure.inputs import ModelInputs, batch_size
from secateur.shrink.plan import named_tensors

ACTIVATION_BYTES = 2**28
"""Bytes of the largest activation of one batch."""


class LockstepAction(Protocol):
    """A step of `Lockstep` at one place."""

    place: TensorPlace
    """Place in the pruned model: an input or output of a call."""
    dense: tuple[TensorPlace, ...]
    """Places of the model before the cut whose values it needs."""
    earlier: tuple[TensorPlace, ...]
    """Places of the pruned model before `place` whose values it needs."""

    def see(self, pruned: Tensor, dense: Sequence[Tensor], earlier: Sequence[Tensor], share: float) -> None:
        """Accumulate one batch, which holds the fraction `share` of all samples."""

    def act(self) -> Mapping[str, Tensor]:
        """Return new values of tensors of the pruned model, by name, after all batches."""

    def again(self, pruned: Tensor) -> Tensor | None:
        """Return the replacement of the value in later passes; None to keep it."""


class Lockstep:
    """Synchronised passes of a model and its pruned form."""

    def __init__(
        self, model: nn.Module, pruned: nn.Module, program: Program, steps: Sequence[LockstepAction]
    ) -> None:
        self.pruned, self.program = pruned, program
        self.were: dict[str, Tensor] = {}
        self.steps = {step.place: step for step in steps}
        self.kept = {place for step in steps for place in step.earlier}
        self.ahead = Probe(model, program, [place for step in steps for place in step.dense])
        self.behind = Probe(pruned, program, [*self.steps, *self.kept])

    @torch.no_grad()
    def run(self, data: Calibration, title: str) -> None:
        """Run passes over the data until every step has acted; steps that no sample reaches are left out.

        An error restores the pruned model. Raises `InputError` without a batch, and if the path of execution depends
        on the data.
        """
        batches = list(together(data, self.program))
        shares = [batch_size(batch) for batch in batches]
        total = max(1, sum(shares))
        seen: dict[TensorPlace, set[int]] = {place: set() for place in self.steps}
        done: set[TensorPlace] = set()
        bar = iter(track(range(len(self.steps)), title, len(self.steps)))

        def attempt(number: int) -> bool:
            """Run one batch up to the first step that waits for other batches; return whether it reached the end."""
            before: dict[TensorPlace, Tensor] = {}
            large = _Ahead(self.ahead, batches[number], self.uses())

            def at(place: TensorPlace, tensor: Tensor) -> Tensor | None:
                try:
                    return look(place, tensor)
                except Exception as error:  # of a step, not of the model's code
                    raise _Failed(error) from error

            def look(place: TensorPlace, tensor: Tensor) -> Tensor | None:
                if place in self.kept:
                    before[place] = tensor
                if (step := self.steps.get(place)) is None:
                    return None
                if place not in done:
                    if number not in seen[place]:
                        seen[place].add(number)
                        dense = [large.get(other) for other in step.dense]
                        earlier = [before[other] for other in step.earlier]
                        step.see(tensor, dense, earlier, shares[number] / total)
                    if len(seen[place]) < len(batches):
                        raise _Enough
                    done.add(place)
                    self._write(step.act())
                    next(bar, None)
                for other in step.dense:
                    large.used(other)
                return step.again(tensor)

            try:
                self.behind.run(batches[number], at)
            except _Enough:
                return False
            except _Failed as failed:
                raise failed.error from None
            finally:
                large.close()
            for place in self.steps:  # steps that this batch does not reach need not wait for it
                seen[place].add(number)
            return True

        try:
            with no_fast_path(), same_draws():
                waiting = list(range(len(batches)))
                while waiting:
                    before = len(waiting), len(done)
                    waiting = [number for number in waiting if not attempt(number)]
                    if waiting and (len(waiting), len(done)) == before:
                        raise InputError(
                            "The model goes another way for some of the calibration data: pass data of one kind."
                        )
        except BaseException:
            self._write(self.were)
            raise

    def uses(self) -> Counter[TensorPlace]:
        """Return the number of uses of each value of the model before the cut in a pass."""
        return Counter(place for step in self.steps.values() for place in step.dense)

    def _write(self, tensors: Mapping[str, Tensor]) -> None:
        pruned = named_tensors(self.pruned)
        for name in tensors:
            if name not in self.were:
                self.were[name] = pruned[name].detach().clone()
        for model in (self.pruned, self.behind.ghost):
            own = named_tensors(model)
            for name, values in tensors.items():
                own[name].data.copy_(values)


def together(data: Calibration, program: Program) -> Iterator[ModelInputs]:
    """Yield the inputs of the data, merged to batches within `ACTIVATION_BYTES`, of equal shapes each.

    Raises `InputError` without a batch.
    """
    samples = max(
        (value.shape[0] for value in program.values if value.kind == "input" and value.shape), default=1
    )
    widest = max((math.prod(value.shape) for value in program.values if value.kind == "result"), default=1)
    most = max(1, ACTIVATION_BYTES * samples // (4 * widest))
    held: list[ModelInputs] = []
    for inputs, _ in data:
        if held and (
            _form(held[0]) != _form(inputs) or sum(map(batch_size, held)) + batch_size(inputs) > most
        ):
            yield _joined(held)
            held = []
        held.append(inputs)
    if not held:
        raise InputError("The data holds no batch: pass batches of inputs and labels as data=.")
    yield _joined(held)


def _form(inputs: ModelInputs) -> Any:
    """Return a key that is equal for batches that can be merged."""
    leaves, tree = tree_flatten(inputs)
    size = batch_size(inputs)
    return tree, [
        (leaf.shape[1:], leaf.dtype)
        if _batched(leaf, size)
        else (id(leaf) if isinstance(leaf, Tensor) else leaf)
        for leaf in leaves
    ]


def _joined(batches: Sequence[ModelInputs]) -> ModelInputs:
    if len(batches) == 1:
        return batches[0]
    flat = [tree_flatten(batch) for batch in batches]
    size = batch_size(batches[0])
    leaves = [
        torch.cat(leaves) if _batched(leaves[0], size) else leaves[0]
        for leaves in zip(*(leaves for leaves, _ in flat), strict=True)
    ]
    joined: ModelInputs = tree_unflatten(leaves, flat[0][1])
    return joined


def _batched(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == size


class _Enough(BaseException):
    """The early end of a pass."""


class _Failed(BaseException):
    """An exception raised by a step."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Ahead:
    """A pass of the model before the cut in its own thread, up to the last requested place."""

    def __init__(self, probe: Probe, inputs: ModelInputs, uses: Counter[TensorPlace]) -> None:
        self.probe, self.inputs, self.uses = probe, inputs, uses
        self.found: dict[TensorPlace, Tensor] = {}
        self.until: TensorPlace | None = None
        self.ended = self.stopped = False
        self.error: BaseException | None = None
        self.turn, self.came = threading.Semaphore(0), threading.Semaphore(0)
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def get(self, place: TensorPlace) -> Tensor:
        """Run up to `place`, and return its value. Raises `InputError` if the pass does not reach it."""
        if place not in self.found and not self.ended:
            self.until = place
            self.turn.release()
            self.came.acquire()
        if self.error is not None:
            raise self.error
        if place not in self.found:
            raise InputError(
                f"The smaller model takes another way than the large one at {place.point.module or 'the model'} on "
                "the calibration data: it can't be fitted to it."
            )
        return self.found[place]

    def used(self, place: TensorPlace) -> None:
        """Count one use of the value at `place`; it is freed after the last."""
        self.uses[place] -= 1
        if self.uses[place] <= 0:
            self.found.pop(place, None)

    def close(self) -> None:
        """Stop the pass and free its values."""
        self.stopped = True
        self.turn.release()
        self.thread.join()
        self.found.clear()

    @torch.no_grad()
    def _work(self) -> None:
        self.turn.acquire()
        try:
            if not self.stopped:
                self.probe.run(self.inputs, self._seen)
        except _Enough:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self.came.release()

    def _seen(self, place: TensorPlace, tensor: Tensor) -> None:
        if self.uses[place] > 0:
            self.found[place] = tensor
        if place == self.until:
            self.came.release()
            self.turn.acquire()
            if self.stopped:
                raise _Enough
