"""Labels are united, locked and told apart as a naive partition of sets would do it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.graph.labels import FIXED, Labels, Lock

STEPS = st.lists(
    st.tuples(st.sampled_from(["fresh", "fresh real", "unite", "lock"]), st.integers(0, 2**32 - 1)),
    max_size=25,
)


class Sets:
    """The oracle: a list of disjoint sets of labels, and of locks in the order they came."""

    def __init__(self) -> None:
        self.parts: list[set[int]] = []
        self.real: set[int] = set()
        self.locks: list[set[int]] = []

    def part(self, label: int) -> set[int]:
        return next(part for part in self.parts if label in part)

    def unite(self, left: int, right: int) -> None:
        one, other = self.part(left), self.part(right)
        if one is not other:
            self.parts.remove(other)
            one |= other

    def lock_of(self, label: int) -> int:
        meets = (number for number, locked in enumerate(self.locks) if locked & self.part(label))
        return next(meets, -1)


def replay(steps: list[tuple[str, int]]) -> tuple[Labels, Sets, list[Lock]]:
    """Take random steps with both."""
    locks: list[Lock] = []
    labels, sets = Labels(), Sets()
    for step, seed in steps:
        random = np.random.default_rng(seed)
        count = int(random.integers(0, 9))
        if step.startswith("fresh"):
            new = labels.fresh(count, real=step == "fresh real")
            sets.parts += [{int(label)} for label in new]
            sets.real |= set(new.tolist()) if step == "fresh real" else set()
            continue
        lock = Lock(f"reason {len(locks)}", "here")
        if step == "lock":
            chosen = random.integers(0, len(labels), count)
            labels.lock(chosen, lock)
            touched = set(chosen.tolist()) - {FIXED}
        else:
            left, right = random.integers(0, len(labels), (2, count))
            labels.unite(left, right, lock)
            pairs = list(zip(left.tolist(), right.tolist(), strict=True))
            for one, other in pairs:
                if FIXED not in (one, other):
                    sets.unite(one, other)
            touched = {label for pair in pairs if FIXED in pair for label in pair} - {FIXED}
        if touched:
            locks.append(lock)
            sets.locks.append(touched)
    return labels, sets, locks


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_labels_do_what_sets_do(steps: list[tuple[str, int]]) -> None:
    labels, sets, locks = replay(steps)
    assert len(labels) == 1 + sum(map(len, sets.parts))
    everything = np.arange(len(labels))
    roots, (numbers, found) = labels.find(everything), labels.locked()
    assert found == locks
    assert (roots[FIXED], numbers[FIXED]) == (FIXED, -1)
    for label in everything[1:].tolist():
        part = sets.part(label)
        assert roots[label] == min(part)
        assert numbers[label] == sets.lock_of(label)
        assert labels.free(np.array([label])) == (bool(part & sets.real) and sets.lock_of(label) < 0)


@settings(max_examples=50, deadline=None)
@given(STEPS, st.integers(0, 2**32 - 1))
def test_looking_changes_nothing(steps: list[tuple[str, int]], seed: int) -> None:
    labels, sets, _ = replay(steps)
    random = np.random.default_rng(seed)
    for _ in range(3):  # paths get shorter on the way
        labels.find(random.integers(0, len(labels), 5))
        labels.free(random.integers(0, len(labels), 2))
    everything = np.arange(1, len(labels))
    assert labels.find(everything).tolist() == [min(sets.part(label)) for label in everything.tolist()]


def test_fresh_labels_count_from_one_and_are_alone() -> None:
    labels = Labels()
    first, second = labels.fresh(3), labels.fresh(2)
    assert (first.tolist(), second.tolist()) == ([1, 2, 3], [4, 5])
    assert labels.fresh(0).size == 0
    np.testing.assert_array_equal(labels.find(np.arange(6)), np.arange(6))


def test_a_long_chain_against_the_order_has_one_representative() -> None:
    labels = Labels()
    chain = labels.fresh(5000)
    labels.unite(chain[::-1][:-1], chain[::-1][1:], Lock("", ""))
    assert (labels.find(chain) == 1).all()


def test_one_label_is_united_with_many_at_once() -> None:
    labels = Labels()
    one, many = labels.fresh(1), labels.fresh(7, real=True)
    labels.unite(one, many, Lock("", ""))
    assert (labels.find(many) == one).all()
    assert labels.free(one)


def test_several_sides_meet_in_one_call() -> None:
    labels = Labels()
    a, b, c, d = labels.fresh(4)
    labels.unite(np.array([d, d, d]), np.array([a, b, c]), Lock("", ""))
    assert labels.find(np.array([a, b, c, d])).tolist() == [a] * 4


def test_what_meets_a_fixed_position_is_locked_and_not_united_with_it() -> None:
    labels = Labels()
    one, other = labels.fresh(2, real=True), labels.fresh(2, real=True)
    labels.unite(one, np.array([FIXED, other[0]]), Lock("it must stay", "add in m"))
    assert labels.find(np.concatenate([one, other])).tolist() == [one[0], one[1], one[1], other[1]]
    numbers, locks = labels.locked()
    assert locks == [Lock("it must stay", "add in m")]
    assert numbers[one[0]] == 0
    assert (numbers[[one[1], *other]] == -1).all()


def test_a_lock_reaches_what_is_united_later_and_the_first_reason_is_told() -> None:
    labels = Labels()
    one, other = labels.fresh(1, real=True), labels.fresh(1, real=True)
    labels.lock(other, Lock("first", ""))
    labels.lock(one, Lock("second", ""))
    labels.unite(one, other, Lock("", ""))
    numbers, locks = labels.locked()
    assert [locks[numbers[label]].reason for label in (*one, *other)] == ["first", "first"]
    assert not labels.free(one)


def test_locking_fixed_positions_is_nothing() -> None:
    labels = Labels()
    labels.lock(np.array([FIXED, FIXED]), Lock("", ""))
    assert labels.locked()[1] == []


@pytest.mark.parametrize("real", [True, False])
def test_only_what_reaches_a_parameter_is_free(real: bool) -> None:
    labels = Labels()
    constant, parameter = labels.fresh(2), labels.fresh(1, real=real)
    labels.unite(constant[:1], parameter, Lock("", ""))
    assert labels.free(constant[:1]) is real
    assert not labels.free(constant[1:])
