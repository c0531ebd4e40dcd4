"""Partitions: everybody owns something, and the skew is the one asked for."""

import math
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import data
from ppml_lab.data import partition

PARTITIONS = {
    "iid": lambda rng, y, k: partition.iid(rng, len(y), k),
    "dirichlet": lambda rng, y, k: partition.dirichlet(rng, y, k, 0.3),
    "dirichlet_tiny": lambda rng, y, k: partition.dirichlet(rng, y, k, 1e-6),
    "shards": lambda rng, y, k: partition.shards(rng, y, k, 1),
    "quantity": lambda rng, y, k: partition.quantity_skew(rng, len(y), k, 1.0),
    "quantity_huge": lambda rng, y, k: partition.quantity_skew(rng, len(y), k, 1e5),
}


def sizes_of(owners, num_clients):
    return np.bincount(owners, minlength=num_clients)


@pytest.mark.parametrize("name", PARTITIONS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    labels=st.lists(st.integers(-2, 4), min_size=1, max_size=60),
    part=st.floats(0, 1),
)
def test_every_client_owns_something(name, seed, labels, part):
    num_clients = max(1, round(part * len(labels)))
    draw = PARTITIONS[name]
    owners = draw(np.random.default_rng(seed), np.array(labels), num_clients)
    assert owners.shape == (len(labels),)
    assert owners.dtype.kind == "i"
    assert set(owners.tolist()) == set(range(num_clients))
    again = draw(np.random.default_rng(seed), np.array(labels), num_clients)
    np.testing.assert_array_equal(owners, again)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5000), part=st.floats(0, 1))
def test_equal_sizes(seed, n, part):
    num_clients = max(1, round(part * n))
    rng = np.random.default_rng(seed)
    for owners in (
        partition.iid(rng, n, num_clients),
        partition.shards(rng, np.zeros(n, int), num_clients, 1),
        partition.quantity_skew(rng, n, num_clients, 0.0),
    ):
        assert np.ptp(sizes_of(owners, num_clients)) <= 1


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: partition.iid(rng, n, 2),
        lambda rng, n: partition.dirichlet(rng, np.zeros(n, int), 2, 1e9),
        lambda rng, n: partition.shards(rng, np.zeros(n, int), 2, 1),
        lambda rng, n: partition.quantity_skew(rng, n, 2, 0.0),
    ],
)
def test_the_order_within_a_class_does_not_matter(draw):
    owners = draw(np.random.default_rng(0), 10_000)
    # The first half of the examples holds 2500 +- 25 of client 0's.
    assert abs(np.sum(owners[:5000] == 0) - 2500) < 150


def largest_class_share(owners, labels, num_clients):
    """Mean over clients of the share of their most frequent class."""
    counts = np.zeros((num_clients, labels.max() + 1))
    np.add.at(counts, (owners, labels), 1)
    return np.mean(counts.max(axis=1) / counts.sum(axis=1))


def test_dirichlet_skew_falls_with_alpha():
    labels = np.repeat(np.arange(10), 1000)
    share = [
        largest_class_share(
            partition.dirichlet(np.random.default_rng(1), labels, 20, alpha), labels, 20
        )
        for alpha in (0.01, 0.3, 1e4)
    ]
    assert share[0] > 0.9
    assert 0.25 < share[1] < 0.75
    assert share[2] < 0.12


def test_dirichlet_allocates_each_class_by_its_own_draw():
    # With K clients, p ~ Dir(alpha) has variance (K - 1) / (K^2 (K alpha + 1)).
    num_clients, alpha, classes = 5, 0.5, 400
    labels = np.repeat(np.arange(classes), 1000)
    owners = partition.dirichlet(np.random.default_rng(2), labels, num_clients, alpha)
    counts = np.zeros((classes, num_clients))
    np.add.at(counts, (labels, owners), 1)
    variance = (num_clients - 1) / (num_clients**2 * (num_clients * alpha + 1))
    assert np.var(counts / 1000) == pytest.approx(variance, rel=0.1)
    assert np.abs(np.mean(counts / 1000, axis=0) - 1 / num_clients).max() < 0.05


def test_empty_clients_take_from_the_largest():
    # One class and a tiny alpha: one client draws everything, nine are left empty.
    owners = partition.dirichlet(np.random.default_rng(3), np.zeros(100, int), 10, 1e-9)
    assert sorted(sizes_of(owners, 10)) == [1] * 9 + [91]


def test_shards_are_mcmahans_split():
    labels = np.random.default_rng(4).permutation(np.repeat(np.arange(10), 600))
    owners = partition.shards(np.random.default_rng(5), labels, 100, 2)
    np.testing.assert_array_equal(sizes_of(owners, 100), 60)
    classes = [len(set(labels[owners == client])) for client in range(100)]
    assert max(classes) == 2
    # Two shards of 200 fall into one class with probability 19/199.
    assert 75 <= np.sum(np.array(classes) == 2) <= 100


def test_quantity_skew_is_log_normal():
    owners = partition.quantity_skew(np.random.default_rng(6), 10**6, 2000, 0.7)
    log_sizes = np.log(sizes_of(owners, 2000))
    assert np.std(log_sizes) == pytest.approx(0.7, rel=0.06)


def test_natural_numbers_the_sorted_users():
    owners = partition.natural(np.array(["b", "a", "c", "a"]))
    np.testing.assert_array_equal(owners, [1, 0, 2, 0])


def test_fast_at_scale():
    labels = np.random.default_rng(7).integers(0, 10, 60_000)
    for name, draw in PARTITIONS.items():
        start = time.perf_counter()
        draw(np.random.default_rng(8), labels, 2000)
        assert time.perf_counter() - start < 1.0, name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: partition.iid(rng, 3, 4), "num_clients 4 exceeds .* 3"),
        (lambda rng: partition.iid(rng, 0, 1), "num_examples"),
        (lambda rng: partition.iid(rng, 3, 0), "num_clients"),
        (lambda rng: partition.dirichlet(rng, [0, 1], 3, 1.0), "num_clients 3 exceeds"),
        (
            lambda rng: partition.dirichlet(rng, [0, 1], 2, 0.0),
            "alpha must be positive",
        ),
        (lambda rng: partition.dirichlet(rng, [0, 1], 2, np.inf), "alpha"),
        # The shares would be 0 by an overflow, and the last client have everything.
        (lambda rng: partition.dirichlet(rng, [0, 1], 2, 1e308), "alpha times"),
        (lambda rng: partition.dirichlet(rng, [[0], [1]], 2, 1.0), "labels must have"),
        (
            lambda rng: partition.shards(rng, [0, 1, 2], 2, 2),
            "needs 4 examples, got 3",
        ),
        (lambda rng: partition.shards(rng, [0, 1, 2], 2, 0), "shards_per_client"),
        (lambda rng: partition.quantity_skew(rng, 9, 3, -1.0), "sigma"),
        (lambda rng: partition.quantity_skew(rng, 9, 3, 1e308), "sigma must be at mos"),
        (lambda rng: partition.quantity_skew(rng, 2, 3, 1.0), "num_clients 3 exceeds"),
        (lambda rng: partition.natural(None), "no natural users"),
        (lambda rng: partition.natural([]), "user_ids is empty"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_clients=st.integers(4, 30))
def test_label_limited_clients_have_exactly_so_many_labels(seed, num_clients):
    labels = np.repeat([7, 3, 5, 9], [100, 150, 120, 133])
    owners = partition.label_limited(
        np.random.default_rng(seed), labels, num_clients, 2
    )
    parts = []
    for client in range(num_clients):
        own, counts = np.unique(labels[owners == client], return_counts=True)
        assert len(own) == 2
        parts.append(dict(zip(own.tolist(), counts.tolist(), strict=True)))
    for label in (7, 3, 5, 9):  # split evenly by those that have it
        shares = [part[label] for part in parts if label in part]
        assert sum(shares) == np.sum(labels == label)
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("num_clients", "labels_per_client", "message"),
    [(3, 2, "fewer|at least as many clients"), (4, 5, "exceeds the 4 classes"),
     (4, 0, "labels_per_client"), (20, 2, "class 1 has 2 examples")],
)  # fmt: skip
def test_label_limited_says_what_does_not_fit(num_clients, labels_per_client, message):
    labels = np.repeat([0, 1, 2, 3], [50, 2, 50, 50])
    with pytest.raises(ValueError, match=message):
        partition.label_limited(
            np.random.default_rng(0), labels, num_clients, labels_per_client
        )


def no_truth_value(self):
    raise TypeError("boolean value of NA is ambiguous")


# As pandas' NA: neither equal nor unequal to itself.
NotAvailable = type(
    "NotAvailable",
    (),
    {
        "__eq__": lambda self, other: self,
        "__ne__": lambda self, other: self,
        "__hash__": object.__hash__,
        "__bool__": no_truth_value,
    },
)

MISSING = {
    "nan": np.array([0.0, 1, np.nan, 1]),
    "bfloat16": jax.numpy.array([0.0, 1, np.nan, 1], jax.numpy.bfloat16),
    "NaT": np.array(["2024-01-01", "2024-01-02", "NaT", "NaT"], "datetime64[D]"),
    "None": np.array(["a", "b", None, "a"], object),
    "nan among objects": np.array(["a", "b", np.nan, "a"], object),
    "NA": np.array([1, 2, NotAvailable(), 1], object),
    "nan in a list": [0.0, 1.0, math.nan, 1.0],
    "nan in a list of texts": ["a", "b", math.nan, "a"],
    "None in a list": [0, 1, None, 1],
    "masked": np.ma.masked_array([0, 1, 2, 1], [False, False, True, False]),
    "text with NA": np.array(
        ["a", "b", np.nan, "a"], np.dtypes.StringDType(na_object=np.nan)
    ),
    "structured": np.array([(0.0,), (1,), (np.nan,), (1,)], [("id", float)]),
}
BY_LABELS = {
    "labels": [
        lambda labels: partition.dirichlet(np.random.default_rng(0), labels, 2, 1.0),
        lambda labels: partition.shards(np.random.default_rng(0), labels, 2, 1),
        lambda labels: partition.label_limited(np.random.default_rng(0), labels, 3, 1),
    ],
    "user_ids": [
        partition.natural,
        lambda ids: data.federate(np.zeros(4), ids),
        lambda ids: data.federate(np.zeros(4), ids, num_clients=2),
    ],
}


@pytest.mark.parametrize("missing", MISSING)
def test_missing_labels_and_users_are_refused(missing):
    for name, splits in BY_LABELS.items():
        for split in splits:
            with pytest.raises(
                ValueError, match=rf"^{name} has [12] missing .* of 4, .* row 2;"
            ):
                split(MISSING[missing])


@pytest.mark.parametrize("name", BY_LABELS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1, 2j, 1, 2j]), "must be numbers or strings"),
        (["1", 1, "1", 2], "mixes strings with other values, such as 1"),
        (np.array([1, "a", 1, 1], object), "cannot be sorted"),
    ],
    ids=["complex", "mixed list", "mixed objects"],
)
def test_labels_and_users_that_mean_nothing(name, values, message):
    for split in BY_LABELS[name][: -1 if name == "user_ids" else None]:
        with pytest.raises(ValueError, match=f"^{name} {message}"):
            split(values)


def test_labels_of_any_type_give_the_same_partition():
    numbers = np.random.default_rng(1).integers(0, 4, 60)
    texts = np.array(["ape", "bee", "cat", "dog"])[numbers]
    for split in BY_LABELS["labels"][:2]:
        for labels in (texts, texts.astype(object), texts.tolist(), numbers / 2):
            np.testing.assert_array_equal(split(labels), split(numbers))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    owners=st.lists(st.integers(0, 6), min_size=1, max_size=80),
    share=st.floats(0.01, 0.99),
)
def test_each_client_holds_out_its_share_and_never_all(seed, owners, share):
    owners = np.array(owners)
    held = partition.hold_out(np.random.default_rng(seed), owners, share)
    assert held.dtype == bool
    sizes = np.bincount(owners, minlength=7)
    counts = np.bincount(owners, weights=held, minlength=7)
    np.testing.assert_array_equal(counts[sizes < 2], 0)
    some = sizes >= 2
    wanted = np.clip(np.rint(share * sizes), 1, np.maximum(sizes - 1, 1))
    np.testing.assert_array_equal(counts[some], wanted[some])


def test_people_are_held_out_with_all_their_rows():
    owners = np.repeat([0, 1, 2], [12, 9, 3])
    people = np.array([7, 7, 3, 3, 4, 4, 5, 5, 8, 8, 8, 8, *[1, 2, 6] * 3, 9, 9, 9])
    often = [
        partition.hold_out(np.random.default_rng(seed), owners, 0.4, people=people)
        for seed in range(300)
    ]
    for held in often:
        assert not set(people[held]) & set(people[~held])
        counts = [len(set(people[held & (owners == one)])) for one in range(3)]
        # Of five and of three people; who is alone is trained on.
        assert counts == [2, 1, 0]
    assert (abs(np.mean(often, axis=0)[:12] - 0.4) < 0.12).all()
    with pytest.raises(ValueError, match="people"):
        partition.hold_out(np.random.default_rng(0), owners, 0.4, people=people[1:])


def test_any_row_may_be_held_out():
    owners = np.repeat([0, 1], [4, 6])
    often = [
        partition.hold_out(np.random.default_rng(seed), owners, 0.5)
        for seed in range(600)
    ]
    assert (abs(np.mean(often, axis=0) - 0.5) < 0.1).all()


def test_bad_shares_and_owners_are_told():
    rng = np.random.default_rng(0)
    for owners, share, message in [
        ([0, 1], 0.0, r"share must lie in \(0, 1\), got 0"),
        ([0, 1], 1.0, "share must lie in"),
        ([0.0, 1.0], 0.5, "owners must be integers from 0 on"),
        ([-1, 1], 0.5, "owners must be integers from 0 on"),
    ]:
        with pytest.raises(ValueError, match=message):
            partition.hold_out(rng, owners, share)
