"""The data of setups: what is loaded, held out, dealt and refused."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import base, data, lab
from ppml_lab.lab import parts, results

X = np.arange(40, dtype=np.float32).reshape(20, 2)
Y = np.arange(20, dtype=np.int32) % 2
ROWS = {"x": X, "y": Y}
TEST = {"x": X[:4], "y": Y[:4]}
USERS = np.repeat([3, 5, 9, 11], 5)


def loads(train: Any, users: Any, test: Any, classes: Any = None) -> Any:
    """A data part that loads this."""

    @lab.part
    class Rows:
        num_classes = classes

        def load(self) -> Any:
            return train, users, test

    return Rows()


def setup(data: Any, partition: Any = None, validation: float = 0.0) -> Any:
    return parts.Federated(
        data=data,
        partition=partition or parts.Natural(),
        schedule=lab.Schedule(validation=validation),
        layout=lab.Layout(num_devices=1),
    )


def rows_of(examples: Any) -> set[float]:
    """Which rows these are."""
    return set(np.asarray(examples["x"])[:, 0].tolist())


def test_facts_are_of_the_train_rows() -> None:
    facts = lab.facts_of(setup(loads(ROWS, USERS, TEST, 2)))
    assert facts[:3] == (4, 20, 5)
    assert facts.example == {
        "x": jax.ShapeDtypeStruct((2,), np.float32),
        "y": jax.ShapeDtypeStruct((), np.int32),
    }
    assert (facts.num_classes, facts.delta) == (2, None)
    loaded = lab.load_data(setup(loads(ROWS, USERS, TEST, 2)))
    assert loaded.facts == facts
    assert loaded.validation is None
    assert rows_of(loaded.test) == rows_of(TEST)


@pytest.mark.parametrize(
    "partition",
    [
        parts.Iid(4), parts.Dirichlet(4, 5.0), parts.Shards(4), parts.Natural(),
        parts.LabelLimited(4, 2), parts.QuantitySkew(4),
    ],
    ids=lambda partition: type(partition).__name__,
)  # fmt: skip
def test_every_partition_deals_all_rows(partition: Any) -> None:
    loaded = lab.load_data(setup(loads(ROWS, USERS, TEST, 2), partition))
    assert loaded.facts.num_clients == 4
    assert rows_of(loaded.clients.examples) == rows_of(ROWS)


def test_stock_data_say_what_they_are() -> None:
    synthetic = parts.Synthetic(num_clients=7, beta=0.5)
    assert lab.facts_of(setup(synthetic)).num_clients == 7
    tumours = lab.facts_of(setup(parts.BreastCancer(), parts.Iid(5)))
    assert (tumours.num_examples, tumours.num_classes) == (455, 2)
    diabetes = lab.facts_of(setup(parts.Diabetes(), parts.Iid(5)))
    assert (diabetes.num_examples, diabetes.num_classes) == (353, None)
    assert diabetes.example["y"] == jax.ShapeDtypeStruct((), np.float32)
    digits = lab.facts_of(setup(parts.Digits(), parts.Iid(30)))
    assert (digits.num_clients, digits.num_examples, digits.num_classes) == (
        30, 1437, 10,
    )  # fmt: skip


def test_validation_rows_are_held_out_and_never_trained() -> None:
    loaded = lab.load_data(setup(loads(ROWS, None, TEST), parts.Iid(4), 0.3))
    held, trained = rows_of(loaded.validation), rows_of(loaded.clients.examples)
    assert (len(held), len(trained)) == (6, 14)
    assert held | trained == rows_of(ROWS)
    assert loaded.facts.num_examples == 14
    again = lab.load_data(setup(loads(ROWS, None, TEST), parts.Iid(4), 0.3))
    assert rows_of(again.validation) == held


def test_users_are_held_out_whole() -> None:
    loaded = lab.load_data(setup(loads(ROWS, USERS, TEST), None, 0.3))
    held = rows_of(loaded.validation)
    of_user = [rows_of({"x": X[user == USERS]}) for user in np.unique(USERS)]
    assert sorted(len(rows & held) for rows in of_user) == [0, 0, 0, 5]
    assert loaded.facts.num_clients == 3


def test_people_are_held_out_whole() -> None:
    people = np.arange(20) % 7
    named = {**ROWS, "person": people}
    test = {**TEST, "person": 90 + np.arange(4)}
    loaded = lab.load_data(setup(loads(named, None, test), parts.Iid(4), 0.3))
    assert loaded.validation is not None
    held = set(np.asarray(loaded.validation["person"]).tolist())
    assert 0 < len(held) < 7
    assert not held & set(np.asarray(loaded.clients.examples["person"]).tolist())
    with pytest.raises(ValueError, match=r"person . has rows of a user that is held"):
        lab.load_data(setup(loads(named, USERS, test), None, 0.3))
    own = parts.Federated(
        data=loads({**ROWS, "person": np.arange(20) // 2}, None, test),
        partition=parts.Iid(1),
        held_out=0.3,
        layout=lab.Layout(num_devices=1),
    )
    clients = lab.load_data(own).clients
    assert clients.held_out is not None
    (count,) = np.asarray(clients.held_out).tolist()
    person = np.asarray(clients.examples["person"])
    assert count == 6
    assert not set(person[:-count]) & set(person[-count:])


def test_held_out_rows_make_other_data() -> None:
    """So that no private key is that of the run with all rows."""
    some, every = (
        lab.facts_of(setup(loads(ROWS, USERS, TEST), None, share)) for share in (0.3, 0)
    )
    assert some.digests != every.digests


def test_rows_need_no_users_and_no_partition() -> None:
    @lab.part
    class Own:
        """A setup without a partition."""

        data: Any = loads(ROWS, USERS, TEST)
        schedule: lab.Schedule = lab.Schedule()
        layout: lab.Layout = lab.Layout(num_devices=1)

        def algorithm(self, facts: Any) -> Any:
            return None

        def evaluate(self, state: Any, clients: Any, rows: Any) -> Any:
            return {}

    assert lab.facts_of(Own()).num_clients == 4
    assert lab.load_data(Own(loads(ROWS, None, TEST))).facts.num_clients == 1


def test_clients_may_be_dealt_already() -> None:
    clients = data.federate(ROWS, USERS)
    loaded = lab.load_data(setup(loads(clients, None, TEST, 2)))
    dealt = lab.facts_of(setup(loads(ROWS, USERS, TEST, 2)))
    assert loaded.facts == dealt
    with pytest.raises(
        ValueError, match=r"validation 0.3 cannot .* of Rows.* already dealt"
    ):
        lab.facts_of(setup(loads(clients, None, TEST, 2), None, 0.3))
    bad = {"x": X[:4, :1], "y": Y[:4]}
    with pytest.raises(ValueError, match=r"test\['x'\] must have .* got \[1\]"):
        lab.facts_of(setup(loads(clients, None, bad, 2)))
    clients = data.federate(ROWS | {"y": Y + 1}, USERS)
    with pytest.raises(ValueError, match=r"train labels must lie in \[0, num_classes"):
        lab.facts_of(setup(loads(clients, None, TEST, 2)))


def test_clients_may_be_made_when_they_train() -> None:
    def make(client: Any) -> Any:
        x = jnp.full((4, 2), client, jnp.float32)
        return {"x": x, "y": jnp.zeros(4, jnp.int32)}

    made = data.generated(make, np.full(5, 4))
    own = setup(parts.Digits())

    @lab.part
    class Made:
        def load(self) -> Any:
            return data.generated(make_rows, np.full(5, 4)), None, TEST

    facts = lab.facts_of(replace(own, data=Made()))
    assert facts[:3] == (5, 20, 4)
    assert facts.example["x"] == jax.ShapeDtypeStruct((2,), np.float32)
    assert facts.digests is None
    assert data.num_clients(made) == 5


def make_rows(client: Any) -> Any:
    """Four rows of a client."""
    x = jnp.full((4, 2), client, jnp.float32)
    return {"x": x, "y": jnp.zeros(4, jnp.int32)}


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (
            (ROWS, None, {"x": X[:4]}),
            r"test must have the fields of train, .* got \['x'\]",
        ),
        ((ROWS, None, TEST | {"z": Y[:4]}), "test must have the fields of train"),
        (
            (ROWS, None, {"x": X[:4, :1], "y": Y[:4]}),
            r"test\['x'\] must have .* got \[1\]",
        ),
        ((ROWS | {"y": Y[:7]}, None, TEST), "Rows: train"),
        ((ROWS, None, TEST | {"y": Y[:3]}), "Rows: test"),
        ((ROWS | {"y": Y + 1}, None, TEST), r"train labels must .* got 2 in row 1"),
        ((ROWS | {"y": Y - 1}, None, TEST), r"train labels must .* got -1 in row 0"),
        ((ROWS, None, TEST | {"y": Y[:4] + 5}), r"test labels must .* got 5 in row 0"),
        ((ROWS, USERS[:7], TEST), "users has 7 ids, but train has 20 rows"),
        ((ROWS, np.zeros((20, 2)), TEST), "Rows: users"),
        ((ROWS, None, TEST), "Natural|users"),
    ],
)
def test_data_that_do_not_fit_together_are_refused(loaded: Any, message: str) -> None:
    for read in (lab.facts_of, lab.load_data):
        with pytest.raises(ValueError, match=message):
            read(setup(loads(*loaded, classes=2)))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (ROWS, r"Odd.load must return \(train, users, test\), got dict"),
        ((ROWS, TEST), r"got tuple of 2; users may be None"),
    ],
)
def test_a_load_that_returns_something_else_is_refused(
    result: Any, message: str
) -> None:
    @lab.part
    class Odd:
        def load(self) -> Any:
            return result

    with pytest.raises(ValueError, match=message):
        lab.facts_of(setup(Odd()))


def test_parts_that_do_not_load_or_deal_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Federated\.data must be Data, got Iid\("):
        setup(parts.Iid())
    with pytest.raises(TypeError, match=r"partition must be Partition, got Accuracy"):
        setup(loads(ROWS, USERS, TEST), parts.Accuracy())


def deals(owners: Any) -> Any:
    @lab.part
    class Odd:
        def deal(self, train: Any, users: Any) -> Any:
            return owners

    return Odd()


@pytest.mark.parametrize(
    "owners",
    [
        np.arange(19), np.arange(20) + 1, np.arange(20) - 1, np.ones(20),
        np.arange(20) * 2, np.zeros((20, 1), int),
    ],
)  # fmt: skip
def test_owners_that_are_none_are_refused(owners: Any) -> None:
    with pytest.raises(ValueError, match=r"Odd"):
        lab.facts_of(setup(loads(ROWS, USERS, TEST), deals(owners)))


@pytest.mark.parametrize(("users", "share"), [(None, 0.01), (None, 0.99), (USERS, 0.2)])
def test_a_share_that_leaves_nothing_is_refused(users: Any, share: float) -> None:
    with pytest.raises(ValueError, match=rf"validation {share} holds out (0|20) of 20"):
        lab.facts_of(setup(loads(ROWS, users, TEST), parts.Iid(1), share))


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        (parts.Iid(2000), "2000"),
        (parts.Dirichlet(4, 0.0), "alpha"),
        (parts.Iid(4, seed=-1), "seed must be"),
    ],
)
def test_bad_partitions(partition: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lab.facts_of(setup(loads(ROWS, USERS, TEST), partition))


def test_what_is_no_setup_is_refused() -> None:
    for read in (lab.facts_of, lab.load_data):
        for value in (parts.Federated, parts.Digits(), {}, None, 1.0):
            with pytest.raises(ValueError, match=r"setup must be|is not a setup"):
                read(value)


def test_what_a_run_is_judged_by_is_in_its_name_and_in_no_key() -> None:
    other = {"x": TEST["x"], "y": 1 - TEST["y"]}
    private = parts.Gaussian(1.0, 1.0)
    found = [
        lab.points(
            lab.seeds(1),
            replace(
                setup(loads(ROWS, USERS, test, 2)),
                mechanism=private,
                sampler=parts.Everyone(),
            ),
            delta=1e-2,
        )[0]
        for test in (TEST, other)
    ]
    facts = [lab.facts_of(point.setup) for point in found]
    assert facts[0].digests == facts[1].digests
    assert facts[0].judged_by != facts[1].judged_by
    names = {results.run_id(found[0].setup, 0, 1e-2, one) for one in facts}
    keys = {results.key_identity(found[0].setup, f, promises=True) for f in facts}
    assert (len(names), len(keys)) == (2, 1)


def test_labels_of_padding_may_be_anything() -> None:
    y = np.tile(np.arange(5, dtype=np.int32), (20, 1))
    weights = np.where(y > 3, 0, 1).astype(np.float32)
    padded = {"x": y, "y": np.where(weights == 0, -100, y), "weights": weights}
    test = {name: rows[:2] for name, rows in padded.items()}
    lab.load_data(setup(loads(padded, None, test, 4), parts.Iid(2)))
    wrong = {**padded, "weights": np.ones_like(weights)}
    with pytest.raises(ValueError, match="got -100 in row 0"):
        lab.load_data(setup(loads(wrong, None, test, 4), parts.Iid(2)))


def test_test_rows_of_another_kind_are_refused() -> None:
    pixels = {"x": (255 * TEST["x"]).astype(np.uint8), "y": TEST["y"]}
    with pytest.raises(
        ValueError, match=r"test\['x'\] holds uint8, but train holds float32"
    ):
        lab.facts_of(setup(loads(ROWS, USERS, pixels, 2)))
    short = {"x": TEST["x"].astype(np.float16), "y": TEST["y"].astype(np.uint8)}
    assert lab.facts_of(setup(loads(ROWS, USERS, short, 2))).num_clients == 4


def test_training_on_shares_wants_labels_of_0_and_1() -> None:
    rows = {"x": X, "y": Y + 1}
    shared = parts.OnShares(data=loads(rows, USERS, rows))
    loaded = lab.load_data(shared)
    with pytest.raises(
        ValueError, match=r"labels .* of 0 or 1, got others from 1 to 2"
    ):
        shared.algorithm(loaded.facts).check(loaded.clients)


CALLS = itertools.count()


@lab.part
class Drawn:
    """Data of which some rows are others at every call."""

    which: str = "train"

    num_classes = 2

    def load(self) -> Any:
        """Draws, as it were, train or test rows."""
        moved = {"x": X + np.float32(next(CALLS)), "y": Y}
        train, test = (moved, TEST) if self.which == "train" else (ROWS, moved)
        return train, USERS, test


@pytest.mark.parametrize("which", ["train", "test"])
def test_data_that_differ_from_call_to_call_are_refused(which: str) -> None:
    """The facts are of one call, and the rows would be of another."""
    mine, other = setup(Drawn(which)), setup(loads(ROWS, USERS, TEST, 2))
    facts = lab.facts_of(mine)
    assert lab.load_data(mine).facts == facts
    for one in (other, replace(other, partition=parts.Iid(4))):
        lab.load_data(one)
    with pytest.raises(ValueError, match=r"Drawn.load\(\) gave other rows .* the seed"):
        lab.load_data(mine)


@lab.part
class OnHost:
    """Clients whose arrays still lie on the host."""

    num_classes = 2

    def load(self):
        x, y = np.zeros((6, 2), np.float32), np.arange(6, dtype=np.int32) % 2
        offsets: Any = np.array([0, 2, 6], np.int32)
        return base.Clients({"x": x, "y": y}, offsets), None, {"x": x, "y": y}


def test_clients_on_the_host_are_placed():
    clients = lab.load_data(parts.Federated(data=OnHost())).clients
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(clients))
