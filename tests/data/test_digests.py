"""Digests tell data apart, and nothing that is not data."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import data

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = RNG.integers(0, 3, size=12).astype(np.int32)
OWNERS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 3, 3])


def of(x=X, y=Y, owners=OWNERS) -> data.Digests:
    return data.digests({"x": x, "y": y}, owners)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 11), st.integers(0, 2))
def test_one_changed_value_changes_everything(row: int, column: int) -> None:
    changed = X.copy()
    changed[row, column] = np.nextafter(changed[row, column], np.float32(9))
    for one, other in zip(of(), of(x=changed), strict=True):
        assert one != other


def test_another_row_label_type_or_shape_is_other_data() -> None:
    others = [
        of(y=np.where(np.arange(12) == 5, (Y + 1) % 3, Y).astype(np.int32)),
        of(x=X[:-1], y=Y[:-1], owners=OWNERS[:-1]),
        of(x=X.view(np.int32)),
        of(x=X.reshape(12, 3, 1)),
        data.digests({"x": X, "z": Y}, OWNERS),
    ]
    for part in range(3):
        assert len({found[part] for found in [of(), *others]}) == 6


def test_order_and_owners_count_where_they_should() -> None:
    order = RNG.permutation(12)
    shuffled = of(X[order], Y[order], OWNERS[order])
    assert shuffled.stored != of().stored
    assert shuffled[1:] == of()[1:]
    # The same clients under other numbers.
    renamed = of(owners=np.array([3, 0, 1, 2])[OWNERS])
    assert renamed.stored != of().stored
    assert renamed[1:] == of()[1:]
    dealt = of(owners=np.roll(OWNERS, 1))
    assert (dealt.stored, dealt.clients) != (of().stored, of().clients)
    assert dealt.examples == of().examples
    # Between two clients only the border moves.
    moved = np.where(np.arange(12) == 9, 2, OWNERS)
    assert of(owners=moved).stored != of().stored
    assert of(owners=moved).clients != of().clients


def test_rows_count_as_often_as_they_occur() -> None:
    twice = np.arange(12) % 6
    once = of(X[twice], Y[twice])
    more = np.where(np.arange(12) == 11, 0, twice)
    assert once.examples != of(X[more], Y[more]).examples
