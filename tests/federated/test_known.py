"""Data that no task can learn from are refused before anything runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, data, dp, federated, models

TASK = models.flax_classification(models.logistic(3), (2,))
X, Y = np.ones((8, 2), np.float32), np.arange(8) % 3
TRAIN = {"x": X, "y": Y}
OWNERS = np.arange(8) // 2
TRAINER = federated.local_sgd(TASK, optax.sgd(0.1), 2, num_epochs=1)
FEDERATED = federated.averaging(TASK, TRAINER, federated.everyone(4))
CENTRAL = federated.central_sgd(
    TASK,
    optax.sgd(0.1),
    federated.poisson(8, 0.5),
    mechanism=dp.gaussian(1.0, 1.0, privacy_unit="example"),
)


def simulate(algorithm, clients, test=None):
    evaluate = None if test is None else federated.evaluator(TASK)
    key = jax.random.key(0)
    federated.simulate(key, algorithm, clients, 1, test=test, evaluate=evaluate)


@pytest.mark.parametrize("algorithm", [FEDERATED, CENTRAL], ids=["federated", "pooled"])
@pytest.mark.parametrize("shift", [1, -1])
def test_labels_that_are_no_classes_are_refused(algorithm, shift):
    clients = data.federate({"x": X, "y": Y + shift}, OWNERS)
    with pytest.raises(ValueError, match=r'"y" must lie in \[0, 3\).*in row \d'):
        simulate(algorithm, clients)


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_labels_of_the_test_set_too(place):
    test = {"x": X, "y": place(Y + 1)}
    with pytest.raises(ValueError, match=r'"y" must lie in \[0, 3\)'):
        simulate(FEDERATED, data.federate(TRAIN, OWNERS), test)


@pytest.mark.parametrize(
    ("rows", "offsets", "held_out", "message"),
    [
        ((8, 6), [0, 2, 4, 6, 8], None, r"one length, got .*'x'\]: 8, .*'y'\]: 6"),
        ((6, 6), [0, 2, 4, 6, 8], None, "8 rows to clients, .* has 6"),
        ((8, 8), [0, 4, 2, 6, 8], None, "must rise from 0"),
        ((8, 8), [1, 2, 4, 6, 8], None, "must rise from 0"),
        ((8, 8), [0, 2, 4, 6, 8], [0, 3, 0, 0], "of client 1 is 3, .* its 2"),
    ],
)
def test_rows_that_do_not_fit_their_owners(rows, offsets, held_out, message):
    examples = {"x": jnp.asarray(X[: rows[0]]), "y": jnp.asarray(Y[: rows[1]])}
    held_out = None if held_out is None else jnp.array(held_out)
    with pytest.raises(ValueError, match=message):
        simulate(FEDERATED, base.Clients(examples, jnp.array(offsets), held_out))
