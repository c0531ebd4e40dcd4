"""Coded masks come off the sum, or the protocol aborts."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppml_lab import random
from ppml_lab.smpc import cost, dropouts, field, lightsecagg
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.aggregation.lightsecagg import Code
from ppml_lab.smpc.field import F31

FIELDS = [F31, field.F61]
CODES = {
    "most": Code(5, 4, 2),
    "all": Code(4, 4, 3),
    "no privacy": Code(3, 2, 0),
}
each_code = pytest.mark.parametrize("code", CODES.values(), ids=CODES)
# Of which two in one field, and one in the other, whose own arithmetic is tested.
each_code_and_field = pytest.mark.parametrize(
    ("code", "where"),
    [
        pytest.param(
            code,
            where,
            id=f"{name}-{where.name}",
            marks=[]
            if name == "most" or (where, name) == (F31, "no privacy")
            else [pytest.mark.exhaustive],
        )
        for name, code in CODES.items()
        for where in FIELDS
    ],
)
LENGTH = 7
run = jax.jit(lightsecagg.run, static_argnames=("code", "field"))


encode = jax.jit(lightsecagg.encode, static_argnames=("code", "field"))
decoded = jax.jit(lightsecagg.decoded, static_argnames=("code", "length", "field"))


def seed_of(number: int):
    return random.seed(jax.random.key(number))


@functools.cache
def draw(where, num_clients: int, length: int = LENGTH):
    return where.uniform(random.child(seed_of(99), jnp.arange(num_clients)), length)


def alive_of(patterns) -> dropouts.Alive:
    return dropouts.nested(*jnp.asarray(patterns, bool))


def exact_sum(where, values, uploaded) -> list[int]:
    rows = rings.to_integers(where, values)[np.asarray(uploaded)]
    return (rows.sum(axis=0) % where.modulus).tolist()


def interpolated(points, values, at: int, p: int) -> int:
    """Lagrange's polynomial in Python's integers, by definition."""
    total = 0
    for x, value in zip(points, values, strict=True):
        for y in points:
            if y != x:
                value = value * (at - y) * pow(x - y, -1, p) % p
        total += value
    return total % p


@each_code_and_field
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_coded_pieces_are_values_of_the_polynomial(where, code, data):
    num_clients, surviving, privacy = code
    p = where.modulus
    one = st.one_of(st.sampled_from([0, 1, p - 1]), st.integers(0, p - 1))
    row = st.lists(one, min_size=3, max_size=3)
    pieces = data.draw(st.lists(row, min_size=surviving, max_size=surviving))
    coded = encode(code, rings.from_integers(where, pieces), field=where)
    coded = rings.to_integers(where, coded)
    beta = range(num_clients + 1, num_clients + surviving + 1)
    exact = [
        [interpolated(beta, column, j + 1, p) for column in zip(*pieces, strict=True)]
        for j in range(num_clients)
    ]
    assert coded.tolist() == exact
    # And back, from any clients in any order.
    holders = data.draw(st.permutations(range(num_clients)))[:surviving]
    answers = rings.from_integers(where, coded[holders])
    length = 3 * (surviving - privacy)
    known = decoded(code, jnp.array(holders), answers, length, field=where)
    expected = list(itertools.chain(*pieces[: surviving - privacy]))
    assert rings.to_integers(where, known).tolist() == expected


@each_code_and_field
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data(), number=st.integers(0, 2**32 - 1))
def test_the_sum_over_uploads_or_nothing(where, code, data, number):
    stays = st.integers(0, 9).map(bool)
    clients = st.lists(stays, min_size=code.num_clients, max_size=code.num_clients)
    alive = alive_of(data.draw(st.lists(clients, min_size=4, max_size=4)))
    inputs = draw(where, code.num_clients)
    total, completed = run(seed_of(number), code, inputs, alive, field=where)
    assert completed == (np.sum(np.asarray(alive.unmasked)) >= code.surviving)
    exact = exact_sum(where, inputs, alive.uploaded)
    expected = exact if completed else [0] * LENGTH
    assert rings.to_integers(where, total).tolist() == expected


@each_code
def test_every_pattern_of_answers(code):
    """As few answers as it takes, and one fewer, whoever they are."""
    inputs = draw(F31, code.num_clients)
    total = exact_sum(F31, inputs, np.ones(code.num_clients, bool))
    everybody = [True] * code.num_clients
    for answers in itertools.product([False, True], repeat=code.num_clients):
        alive = alive_of([everybody] * 3 + [list(answers)])
        outcome = run(seed_of(0), code, inputs, alive)
        assert outcome.completed == (sum(answers) >= code.surviving)
        assert outcome.total.tolist() == (total if outcome.completed else [0] * LENGTH)
    there, gone = (jnp.full(code.num_clients, b) for b in (True, False))
    nobody = dropouts.Alive(there, there, uploaded=gone, unmasked=there)
    assert not run(seed_of(0), code, inputs, nobody).completed


# Lengths that are no whole number of pieces; others are the same program.
@pytest.mark.parametrize(
    "length",
    [
        1,
        3001,
        pytest.param(29, marks=pytest.mark.exhaustive),
        pytest.param(1024, marks=pytest.mark.exhaustive),
    ],
)
def test_ten_clients_of_whom_seven_may_collude(length):
    """Where FedML's arithmetic, with this prime and such a code, overflows."""
    code = Code(10, 8, 7)
    inputs = jnp.full((10, length), F31.modulus - 1, jnp.uint32)
    uploaded = [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    alive = alive_of([[1] * 10, [1] * 10, uploaded, [0, 1, 1, 0, 1, 1, 1, 1, 1, 1]])
    total, completed = run(seed_of(5), code, inputs, alive)
    assert completed
    assert total.tolist() == [F31.modulus - 9] * length


def test_a_hundred_clients_of_whom_thirty_drop_out():
    """More than 64 terms in a product."""
    code = Code(100, 70, 50)
    places = np.arange(100)
    rounds = [places % 97 > 0, places % 31 > 0, places % 11 > 0, places % 6 > 0]
    alive = alive_of(rounds)
    inputs = draw(F31, 100, 50)
    assert 70 <= np.sum(np.asarray(alive.unmasked)) < np.sum(np.asarray(alive.uploaded))
    total, completed = run(seed_of(6), code, inputs, alive)
    assert completed
    assert total.tolist() == exact_sum(F31, inputs, alive.uploaded)


@pytest.mark.parametrize(
    ("where", "x64"),
    [
        (F31, True),
        pytest.param(F31, False, marks=pytest.mark.exhaustive),
        pytest.param(field.F61, False, marks=pytest.mark.exhaustive),
    ],
)
def test_clients_one_at_a_time_are_the_run(where, x64):
    """Compiled and vmapped, with a traced place, and in a plain loop."""
    code, length = CODES["most"], 1030
    inputs = draw(where, 5, length)
    alive = alive_of([[1] * 5, [1] * 5, [1, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
    uploaded = alive.uploaded

    @jax.jit
    @jax.vmap
    def client(place, value):
        mask = lightsecagg.client_mask(seed_of(1), place, length, where)
        pieces = lightsecagg.coded_mask(seed_of(1), code, place, length, where)
        return where.add(value, mask), pieces

    @jax.jit
    def server(uploads, summed_pieces):
        return where.subtract(
            where.sum_over(uploads, 0),
            lightsecagg.mask_of_sum(code, alive.unmasked, summed_pieces, length, where),
        )

    @jax.jit
    def together(place, inputs, alive):
        return (
            lightsecagg.run(seed_of(1), code, inputs, alive, where),
            lightsecagg.transcript(seed_of(1), code, inputs, alive, where),
            lightsecagg.coded_mask(seed_of(1), code, place, length, where),
        )

    with jax.enable_x64(x64):
        sent, pieces = client(jnp.arange(5, dtype=jnp.int32), inputs)
        kept = jax.tree.map(lambda leaf: leaf[np.asarray(uploaded)], (sent, pieces))
        summed = where.sum_over(kept[1], 0)
        total = server(kept[0], summed)
        outcome, seen, alone = together(jnp.int32(3), inputs, alive)
    expected = exact_sum(where, inputs, uploaded)
    assert rings.to_integers(where, total).tolist() == expected
    assert rings.to_integers(where, outcome.total).tolist() == expected
    assert seen.holders.tolist() == [0, 1, 3, 4]
    answers = rings.to_integers(where, summed)[[0, 1, 3, 4]]
    np.testing.assert_array_equal(rings.to_integers(where, seen.answers), answers)
    in_time = rings.to_integers(where, sent) * np.asarray(uploaded)[:, None]
    np.testing.assert_array_equal(rings.to_integers(where, seen.uploads), in_time)
    rows = jax.tree.map(lambda leaf: leaf[3], pieces)
    jax.tree.map(np.testing.assert_array_equal, alone, rows)


def test_runs_side_by_side():
    code = CODES["most"]
    seeds = random.child(seed_of(2), jnp.arange(6))
    patterns = np.ones((6, 4, 5), bool)
    patterns[:, 2, 4] = False
    patterns[np.arange(6), 3, np.arange(6) % 4] = np.arange(6) < 2
    inputs = jnp.stack([draw(F31, 5)] * 6)
    alive = jax.tree.map(lambda *rows: jnp.stack(rows), *map(alive_of, patterns))
    many = jax.jit(jax.vmap(lambda s, x, a: lightsecagg.run(s, code, x, a)))
    total, completed = many(seeds, inputs, alive)
    assert completed.tolist() == [True, True] + [False] * 4
    exact = exact_sum(F31, inputs[0], [True] * 4 + [False])
    assert total.tolist() == [exact] * 2 + [[0] * LENGTH] * 4


@pytest.mark.exhaustive
def test_loops_that_are_not_compiled():
    code, inputs = Code(3, 2, 1), draw(F31, 3, 3)
    alive = alive_of([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1]])
    with jax.disable_jit():
        total, completed = lightsecagg.run(seed_of(3), code, inputs, alive)
    assert completed
    assert total.tolist() == exact_sum(F31, inputs, alive.uploaded)


def determinant(rows, p: int) -> int:
    """Modulo a prime, by elimination in Python's integers."""
    rows, result = [list(row) for row in rows], 1
    for k in range(len(rows)):
        pivot = next((i for i in range(k, len(rows)) if rows[i][k] % p), None)
        if pivot is None:
            return 0
        rows[k], rows[pivot] = rows[pivot], rows[k]
        result = result * rows[k][k] % p
        for i in range(k + 1, len(rows)):
            factor = rows[i][k] * pow(rows[k][k], -1, p)
            rows[i] = [
                (a - factor * b) % p for a, b in zip(rows[i], rows[k], strict=True)
            ]
    return result


@pytest.mark.parametrize(
    ("code", "where"),
    [
        (Code(5, 4, 2), field.F61),
        (Code(10, 8, 7), F31),
        *(
            pytest.param(code, where, marks=pytest.mark.exhaustive)
            for code, where in [
                (Code(5, 4, 2), F31),
                (Code(6, 5, 3), F31),
                (Code(6, 5, 3), field.F61),
                (Code(10, 8, 7), field.F61),
            ]
        ),
    ],
)
def test_uniform_pieces_hide_a_mask_from_any_who_may_collude(where, code):
    """What they hold is a bijection of the uniform pieces, whatever the mask; and any
    so many as must stay hold a bijection of all pieces.
    """
    surviving, privacy = code[1:]
    unit = rings.from_integers(where, np.eye(surviving, dtype=int))
    matrix = rings.to_integers(where, lightsecagg.encode(code, unit, where)).tolist()
    uniform = [row[surviving - privacy :] for row in matrix]
    for rows in itertools.combinations(uniform, privacy):
        assert determinant(rows, where.modulus)
    for rows in itertools.combinations(matrix, surviving):
        assert determinant(rows, where.modulus)


@pytest.mark.parametrize(
    ("code", "where"),
    [
        pytest.param(code, where, marks=[] if first else [pytest.mark.exhaustive])
        for where in FIELDS
        for code in CODES.values()
        for first in [(code, where) == (CODES["most"], F31)]
    ],
)
def test_ideal_transcripts_open_the_total(where, code):
    total = where.uniform(seed_of(9), LENGTH)
    some = np.ones(code.num_clients, bool)
    some[code.surviving :] = False
    alive = alive_of([np.ones(code.num_clients), np.ones(code.num_clients), some, some])

    @jax.jit
    def open_all(total):
        seen = lightsecagg.ideal_transcript(seed_of(0), code, total, alive, where)
        removed = lightsecagg.decoded(code, seen.holders, seen.answers, LENGTH, where)
        return seen, where.subtract(where.sum_over(seen.uploads, 0), removed)

    seen, opened = open_all(total)
    assert not np.any(rings.to_integers(where, seen.uploads)[~some])
    jax.tree.map(np.testing.assert_array_equal, opened, total)


def test_too_few_answers_are_seen_as_they_are():
    code, alive = CODES["most"], alive_of([[1] * 5] * 3 + [[0, 1, 0, 1, 0]])

    @jax.jit
    def both(inputs, total):
        seed = seed_of(0)
        return (
            lightsecagg.transcript(seed, code, inputs, alive),
            lightsecagg.ideal_transcript(seed, code, total, alive),
        )

    for seen in both(draw(F31, 5), jnp.zeros(LENGTH, jnp.uint32)):
        assert seen.holders[:2].tolist() == [1, 3]
        assert np.all(np.any(np.asarray(seen.answers[:2]), axis=1))
        assert not np.any(seen.answers[2:])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (Code(2, 2, 1), "num_clients must be an integer of at least 3, got 2"),
        (Code(4, 3, -1), "privacy must be an integer of at least 0, got -1"),
        (
            Code(4, 3, 3),
            r"surviving must lie above privacy 3 .* got 3; choose surviving",
        ),
        (Code(4, 5, 3), r"surviving must .* at most num_clients 4, got 5"),
    ],
)
def test_bad_codes(code, message):
    inputs, alive = draw(F31, 4), dropouts.everybody(4)
    for use in (
        lambda: lightsecagg.check(code),
        lambda: lightsecagg.run(seed_of(0), code, inputs, alive),
        lambda: lightsecagg.coded_mask(seed_of(0), code, 0, 5),
        lambda: cost.light_secagg(*code, dimension=10, word_bits=31),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_bad_inputs():
    with pytest.raises(ValueError, match="for each of num_clients 5, got 4"):
        lightsecagg.run(seed_of(0), CODES["most"], draw(F31, 4), dropouts.everybody(5))


@pytest.mark.parametrize("length", [1, 6, 7])
def test_pieces_have_the_size_that_the_costs_count(length):
    code = CODES["most"]
    pieces = jax.eval_shape(
        lambda seed: lightsecagg.coded_mask(seed, code, 0, length), seed_of(0)
    )
    sent = cost.by_message(cost.light_secagg(*code, length, 31))
    assert pieces.shape == (5, lightsecagg.piece_length(code, length))
    coded = {found["coded_masks"] for found in sent.values()}
    assert coded == {4 * 31 * pieces.shape[1]}
    assert sent["sent"]["summed_masks"] == 31 * pieces.shape[1]
