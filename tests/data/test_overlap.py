"""Data sets of the same people, found by their rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab.data.digests import by_client
from ppml_lab.data.overlap import match, meet, same_people


def units(*texts: str) -> list[frozenset[bytes]]:
    """Each text is a unit, each letter a row."""
    return [frozenset(letter.encode() for letter in text) for text in texts]


@pytest.mark.parametrize(
    ("one", "other", "meets", "matches"),
    [
        (("ab", "cd"), ("ab", "cd"), True, True),
        (("ab", "cd"), ("cd",), True, True),
        # Rows of some are left out, or added.
        (("abx", "cd"), ("ab", "cdyz"), True, True),
        (("ab",), ("cd",), False, False),
        (("ab", "cd"), ("ac", "bd"), True, False),
        (("ab", "cd"), ("abcd",), True, False),
        # What two units have is nobody's, unless the whole unit is there.
        (("ax", "bx"), ("cx",), True, False),
        (("x", "x"), ("x",), True, True),
        (("ax", "bx"), ("axc",), True, True),
        # Units without rows are not the same unit.
        (("ab", ""), ("cd", ""), False, False),
    ],
)
def test_units_match_if_none_shares_rows_with_two(
    one: tuple[str, ...], other: tuple[str, ...], meets: bool, matches: bool
) -> None:
    for first, second in itertools.permutations((units(*one), units(*other))):
        assert (meet(first, second), match(first, second)) == (meets, matches)


DEALS = st.lists(
    st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=5
)


@settings(max_examples=60, deadline=None)
@given(DEALS)
def test_groups_hold_each_set_once_and_no_two_that_cross(
    deals: list[list[int]],
) -> None:
    """Six rows, each with nobody (2) or one of two clients."""
    sets = [
        [frozenset(bytes([row]) for row, who in enumerate(deal) if who == client)
         for client in (0, 1)]
        for deal in deals
    ]  # fmt: skip
    groups = same_people(sets)
    assert sorted(place for group in groups for place in group) == [*range(len(sets))]
    for group in groups:
        for a, b in itertools.combinations(group, 2):
            assert match(sets[a], sets[b]) or not meet(sets[a], sets[b])
    if len(sets) == 2:
        assert len(groups) == (1 if match(*sets) else 2)


def test_a_set_that_has_units_of_two_others_joins_them() -> None:
    apart = [units("ab", "cd"), units("ef", "gh")]
    assert same_people(apart) == [[0], [1]]
    assert same_people([*apart, units("cd", "ef")]) == [[0, 1, 2]]
    assert same_people([*apart, units("cd", "eh")]) == [[0, 2], [1]]


def test_equal_rows_have_one_digest_wherever_they_are() -> None:
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    whole = by_client({"x": x}, np.array([0, 0, 1, 1, 2, 2]))
    assert [len(rows) for rows in whole] == [2, 2, 2]
    some = by_client({"x": x[[5, 2]]}, np.array([0, 1]))
    assert some[0] < whole[2]
    assert some[1] < whole[1]
    assert not meet(whole, by_client({"x": x + 1}, np.zeros(6, int)))
