"""The federated data set: grouping, views, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import data


def rows_of(clients, i):
    """Client i's rows, read through its view."""
    view = data.view(clients, i)
    start, stop = int(view.start), int(view.start + view.size)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[start:stop], view.examples)


def test_groups_by_sorted_user_and_keeps_the_order_of_rows():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    clients = data.federate(
        {"x": x, "extra": (np.arange(6),)}, ["bob", "amy", "bob", "zoe", "amy", "bob"]
    )
    assert data.num_clients(clients) == 3
    np.testing.assert_array_equal(data.client_sizes(clients), [2, 3, 1])
    for i, rows in enumerate([[1, 4], [0, 2, 5], [3]]):
        np.testing.assert_array_equal(rows_of(clients, i)["x"], x[rows])
        np.testing.assert_array_equal(rows_of(clients, i)["extra"][0], rows)
    assert clients.offsets.dtype == jnp.int32
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(clients))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_every_row_ends_up_with_its_owner_once(user_ids):
    clients = data.federate(np.arange(len(user_ids)), np.array(user_ids))
    assert data.num_clients(clients) == len(set(user_ids))
    for i, user in enumerate(sorted(set(user_ids))):
        expected = [row for row, owner in enumerate(user_ids) if owner == user]
        np.testing.assert_array_equal(rows_of(clients, i), expected)


@pytest.mark.parametrize(
    "user_ids",
    [
        np.array(["b", "a", "b"]),
        np.array(["b", "a", "b"], dtype=object),
        np.array([2.5, -1.0, 2.5]),
        np.array([True, False, True]),
        np.array([2**63 + 1, 7, 2**63 + 1], dtype=np.uint64),
        np.array(["2024-01-02", "2024-01-01", "2024-01-02"], dtype="datetime64[D]"),
    ],
    ids=lambda ids: str(ids.dtype),
)
def test_any_dtype_of_user_ids(user_ids):
    clients = data.federate(np.arange(3), user_ids)
    np.testing.assert_array_equal(clients.examples, [1, 0, 2])
    np.testing.assert_array_equal(clients.offsets, [0, 1, 3])


def test_view_under_jit_and_vmap():
    clients = data.federate(np.arange(6), [2, 0, 2, 1, 2, 0])

    def total(clients, i):
        view = data.view(clients, i)
        row = jnp.arange(6)
        mine = (row >= view.start) & (row < view.start + view.size)
        return jnp.where(mine, view.examples, 0).sum(), view.size

    sums, sizes = jax.jit(jax.vmap(total, in_axes=(None, 0)))(clients, jnp.arange(3))
    np.testing.assert_array_equal(sums, [1 + 5, 3, 0 + 2 + 4])
    np.testing.assert_array_equal(sizes, data.client_sizes(clients))


@pytest.mark.parametrize("i", [-1, 2])
def test_view_of_nobody(i):
    clients = data.federate(np.arange(3), [0, 1, 1])
    with pytest.raises(
        ValueError, match=r"does not exist; the number of clients is 2|i must be an int"
    ):
        data.view(clients, i)


def test_num_clients_keeps_the_numbering():
    clients = data.federate(np.arange(4), [1, 0, 2, 1], num_clients=3)
    np.testing.assert_array_equal(data.client_sizes(clients), [1, 2, 1])


@pytest.mark.parametrize(
    ("examples", "user_ids", "options", "message"),
    [
        ({"x": np.zeros(3), "y": np.zeros(2)}, [0, 1, 1], {}, r"'x'\]: 3, .*'y'\]: 2"),
        ({"x": np.zeros(3)}, [0, 1], {}, "owner of 2 examples, but there are 3"),
        ({"x": np.zeros((0, 4))}, [], {}, "holds no examples"),
        ({}, [], {}, "holds no examples"),
        ({"x": [1, 2, 3]}, [0, 1, 2], {}, "no leading axis"),
        ({"x": np.zeros(2)}, [("a", "b"), ("a", "c")], {}, "join several columns"),
        ({"x": np.zeros(2)}, np.array([1, "a"], object), {}, "cannot be sorted"),
        (np.zeros(2), [], {}, "user_ids is empty"),
        ({"x": np.array(["a", "b"])}, [0, 1], {}, r"'x'\] has dtype <U1.*numpy.unique"),
        ({"x": np.array([b"a", b"b"])}, [0, 1], {}, r"'x'\] has dtype .*numpy.unique"),
        ({"x": np.array([1, None])}, [0, 1], {}, r"'x'\] has dtype object.*one dtype"),
        ({"t": np.array([0, 1], "datetime64[s]")}, [0, 1], {}, r"'t'\] .*seconds"),
        ({"t": np.array([0, 1], "timedelta64[s]")}, [0, 1], {}, r"'t'\] .*seconds"),
        ({"x": np.zeros(2, [("a", float)])}, [0, 1], {}, r"'x'\] has dtype"),
        (np.zeros(3), [0, 4, 2], {"num_clients": 5}, "2 of 5 clients own no .*: 1, 3;"),
        (np.zeros(3), [0, 1, 2], {"num_clients": 2}, r"num_clients = 2\), got 2"),
        (np.zeros(3), [0, -1, 1], {"num_clients": 2}, "got -1"),
        (np.zeros(2), ["a", "b"], {"num_clients": 2}, "one integer per example"),
    ],
)
def test_errors_name_the_problem(examples, user_ids, options, message):
    with pytest.raises(ValueError, match=message):
        data.federate(examples, user_ids, **options)


@pytest.mark.parametrize(
    "wide",
    [
        np.array([1, 2**40]),
        np.array([1, 2**63 + 1], dtype=np.uint64),
        np.array([1, -1e39]),
        np.array([1, 1e39j]),
    ],
)
def test_numbers_that_jax_would_cut_are_refused(wide):
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match=r"'x'\] has \w+ values that do not fit"),
    ):
        data.federate({"x": wide}, [0, 1])


def test_numbers_of_any_dtype_are_taken():
    leaves = {
        "bool": np.array([True, False]),
        "bfloat16": np.asarray(jnp.array([0.5, 1], jnp.bfloat16)),
        # Missing features are the model's affair.
        "float64": np.array([0.1, np.nan]),
        "infinite": np.array([np.inf, -np.inf]),
        "int64": np.array([7, -7]),
    }
    clients = data.federate(leaves, [0, 1])
    for name, leaf in leaves.items():
        found = np.asarray(clients.examples[name], float)
        np.testing.assert_allclose(found, np.asarray(leaf, float), rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([2.0, 1.0], "sizes must be one integer per client"),
        ([[2, 1]], "sizes must be one integer per client"),
        (2, "sizes must be one integer per client"),
        ([], "sizes must be one integer per client"),
        ([2, 0], "sizes must be an integer of at least 1"),
        ([2, 5], r"examples\['x'\] of shape \[3, 1\], but the largest of sizes is 5"),
        ([2**30] * 2, "fewer than 2"),
    ],
)
def test_generated_clients_of_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        data.generated(lambda client: {"x": jnp.zeros((3, 1))}, sizes)


def test_rows_that_are_held_out_come_last():
    held = np.array([True, False, True, False, False, False])
    clients = data.federate(np.arange(6), ["b", "a", "b", "b", "a", "c"], held_out=held)
    np.testing.assert_array_equal(clients.examples, [1, 4, 3, 0, 2, 5])
    np.testing.assert_array_equal(clients.held_out, [0, 2, 0])
    # A view is of what is trained.
    np.testing.assert_array_equal(rows_of(clients, 1), [3])
    for wrong in (held[:5], held.astype(int), [held]):
        with pytest.raises(ValueError, match=r"held_out must be one truth value .* 6 "):
            data.federate(np.arange(6), np.arange(6), held_out=wrong)


def test_test_rows_line_up_with_the_clients_of_train():
    train_users = np.array(["zoe", "amy", "bob", "amy"])
    train = data.federate(np.arange(4), train_users)
    test = data.federate(
        {"x": np.arange(5)},
        ["zoe", "amy", "zoe", "amy", "amy"],
        users=np.unique(train_users),
        held_out=np.array([True, False, False, False, False]),
    )
    assert data.num_clients(test) == data.num_clients(train) == 3
    for i, rows in enumerate([[1, 3, 4], [], [2]]):
        np.testing.assert_array_equal(rows_of(test, i)["x"], rows)
    np.testing.assert_array_equal(test.examples["x"], [1, 3, 4, 2, 0])
    assert test.held_out is not None
    np.testing.assert_array_equal(test.held_out, [0, 0, 1])
    # In whatever order they are asked for, also behind the last who owns a row.
    other = data.federate(np.arange(2), [7, 3], users=[9, 3, 7, 1])
    np.testing.assert_array_equal(other.offsets, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(other.examples, [1, 0])


@pytest.mark.parametrize(
    ("user_ids", "options", "message"),
    [
        (
            ["dan", "amy", "eve", "dan"],
            {"users": ["amy", "bob"]},
            r"2 users \(3 of 4 rows\) that are not in users: 'dan', 'eve'; keep",
        ),
        (list(range(20)), {"users": [3]}, "19 users .*: 0, 1, 2, 4, .*, 10, ...; keep"),
        ([1], {"users": [1, 2, 1]}, "users must be distinct, got 1 twice"),
        ([1], {"users": ["1"]}, "users are <U1 and user_ids int64; give both"),
        (np.array(["1"], object), {"users": [1]}, "users are int64 and user_ids <U1"),
        ([b"1"], {"users": ["1"]}, "users are <U1 and user_ids .S1; give both"),
        (
            [2**53],
            {"users": np.array([2**53 + 1], np.uint64)},
            "9007199254740992; keep",
        ),
        ([1], {"users": [[1]]}, "users must have one axis"),
        ([1], {"users": []}, "users is empty"),
        ([1], {"users": [1.0, np.nan]}, "users has 1 missing"),
        ([1], {"users": [1], "num_clients": 1}, "drop num_clients"),
    ],
)
def test_users_that_do_not_line_up(user_ids, options, message):
    with pytest.raises(ValueError, match=message):
        data.federate(np.arange(len(user_ids)), user_ids, **options)


def test_users_line_up_whatever_holds_them():
    many = 2**53 + np.arange(3)
    for ids, users in [
        (np.array(["b", "a", "b"], object), np.array(["a", "b"])),
        (many, many.astype(np.uint64)),
        (many.astype(object), many),
    ]:
        found = data.federate(np.arange(3), ids, users=users)
        wanted = [[users.tolist().index(one) for one in ids.tolist()]]
        held = np.repeat(np.arange(len(users)), np.diff(found.offsets))
        np.testing.assert_array_equal([held[np.argsort(found.examples)]], wanted)


def test_it_is_shown_in_one_line():
    rows = {"x": np.zeros((3, 2, 1), np.float32), "y": np.zeros(3, np.int32)}
    held = np.array([False, True, False])
    assert repr(data.federate(rows, [0, 0, 1])) == (
        "Clients(2 clients, 3 examples: x [2,1] f32, y i32)"
    )
    one = data.federate(rows, [7, 7, 7], held_out=held)
    assert repr(one).startswith("Clients(1 client, 3 examples: ")
    assert repr(one).endswith("some held out)")
    dataset = data.make_dataset("mine", (rows["x"], [0, 1, 1]), (rows["x"], [1] * 3), 2)
    assert repr(dataset) == (
        "Dataset(mine: 3 train, 3 test, 2 classes: x [2,1] f32, y i32)"
    )
