"""A smaller model on other inputs than those it was pruned with: it computes what is left, or says that it can't."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import secateur

HALF = {"granularity": "channel", "amount": 0.5, "scope": "local"}


class Steps(nn.Module):
    """A loop over time with a size of its state in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.carry, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 16, dtype=x.dtype)
        for step in range(x.shape[1]):
            state = (self.read(x[:, step]) + self.carry(state)).tanh()
            state = state / state.shape[-1] ** 0.5
        return self.head(state)


def test_another_number_of_steps_is_refused_not_computed_wrongly() -> None:
    followed = secateur.prune(Steps(), torch.randn(2, 4, 6), **HALF)
    assert followed.model(torch.randn(2, 7, 6)).shape == (2, 3)
    result = secateur.prune(Steps(), torch.randn(2, 4, 6), other_sizes=False, **HALF)
    assert result.model(torch.randn(3, 4, 6)).shape == (3, 3)
    with pytest.raises(secateur.ModelError, match="prune it with inputs like these"):
        result.model(torch.randn(2, 7, 6))


class Positions(nn.Module):
    """A table of positions, longer than the example."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.table = nn.Embedding(50, 16), nn.Parameter(torch.randn(64, 16))
        self.hidden, self.head = nn.Linear(16, 32), nn.Linear(32, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        features = self.words(tokens) + self.table[: tokens.shape[1]]
        return self.head(self.hidden(features).relu())


def test_positions_the_example_did_not_reach_stay() -> None:
    result = secateur.prune(Positions(), torch.randint(0, 50, (2, 7)), **HALF)
    assert result.model.get_parameter("table").shape == (64, 8)
    assert result.model(torch.randint(0, 50, (2, 64))).shape == (2, 64, 50)


@dataclass
class Out:
    logits: Tensor


class InObject(nn.Module):
    """Returns its logits in an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> object:
        return self.answer(self.head(self.hidden(x).relu()))

    def answer(self, logits: Tensor) -> object:
        return Out(logits)


class AsIterator(InObject):
    """Returns what can be read once."""

    def answer(self, logits: Tensor) -> object:
        return iter([logits])


def test_outputs_in_objects_are_outputs() -> None:
    result = secateur.prune(InObject(), torch.randn(2, 6), **HALF)
    assert result.model(torch.randn(2, 6)).logits.shape == (2, 3)
    assert result.verification is not None
    assert result.verification.compared == 6


def test_outputs_nobody_can_look_into_are_refused() -> None:
    with pytest.raises(secateur.ModelError, match="can't be compared"):
        secateur.prune(AsIterator(), torch.randn(2, 6), **HALF)


class Block(nn.Module):
    """A residual block that returns its hidden values too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.a(x).relu()
        return x + self.b(hidden), hidden


class Collects(nn.Module):
    """Returns what its blocks saw."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen = []
        for block in self.blocks:
            x, hidden = block(x)
            seen.append(hidden)
        return x, seen


def test_a_block_whose_other_results_are_used_is_no_candidate() -> None:
    with pytest.raises(secateur.ModelError, match="no two residual blocks"):
        secateur.prune(Collects(), torch.randn(2, 8), granularity="layer", amount=0.5)


class OfPacked(nn.Module):
    """Takes and returns a packed sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 12, bidirectional=True), nn.Linear(24, 3)

    def forward(self, x: PackedSequence) -> PackedSequence:
        y, _ = self.rnn(x)
        return y._replace(data=self.head(y.data))


@pytest.mark.parametrize("alone", [True, False])
def test_a_packed_sequence_is_an_input(alone: bool) -> None:
    x = pack_sequence([torch.randn(3, 4), torch.randn(5, 4)], enforce_sorted=False)
    result = secateur.prune(OfPacked(), x if alone else (x,), **HALF)
    assert result.model.rnn.hidden_size == 6
    assert result.model(x).data.shape == (8, 3)
    assert result.verification.error <= 1e-9
