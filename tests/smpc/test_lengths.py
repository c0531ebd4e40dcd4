"""Arrays that have an entry for each client, party or share are refused by name where
they have another length: an index beyond the end would be that of another entry.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import smpc
from ppml_lab.smpc import (
    dropouts,
    graphs,
    lightsecagg,
    mask_keys,
    masking,
    shamir,
    sharing,
)
from ppml_lab.smpc import ring as rings

pytestmark = pytest.mark.usefixtures("as_users_call")

SEED = jnp.zeros(2, jnp.uint32)
GRAPH = graphs.complete(5, 3)
CODE = lightsecagg.Code(5, 3, 1)
FEW, ALL = dropouts.everybody(4), dropouts.everybody(5)
INPUTS = rings.from_integers(rings.Z32, np.ones((5, 3), int))
SHORT = rings.from_integers(rings.Z32, np.ones((4, 3), int))
ELEMENTS = rings.from_integers(smpc.field.F31, np.ones((5, 3), int))
TOTAL = rings.from_integers(smpc.field.F31, np.ones(3, int))
KEYS = jax.eval_shape(lambda: mask_keys.setup(SEED, GRAPH))
REPLICATED = sharing.replicated(rings.Z32)
SHAMIR = shamir.shamir(2, 5)
ANY: Any = None
"""What is not come to."""
CHOICE: Any = jnp.ones(5, bool)


def shared(scheme, count):
    """A value with this many shares of three."""
    row = rings.from_integers(scheme.ring, np.ones((count, 3), int))
    return smpc.sharing.Shared(row, scheme)


CALLS = {
    "alive": lambda: masking.run(SEED, GRAPH, INPUTS, FEW),
    "alive: no Alive": lambda: masking.run(SEED, GRAPH, INPUTS, CHOICE),
    "inputs": lambda: masking.run(SEED, GRAPH, SHORT, ALL),
    "alive: seen": lambda: masking.transcript(SEED, GRAPH, INPUTS, FEW),
    "alive: a function": lambda: masking.run(
        SEED, GRAPH, lambda number: INPUTS, FEW, num_chunks=1
    ),
    "alive: left": lambda: masking.mask_of_sum(ANY, GRAPH, FEW, 3),
    "shared": lambda: masking.client_mask(KEYS, GRAPH, jnp.ones(4, bool), 0, 3),
    "alive: opened": lambda: mask_keys.unmask(KEYS, GRAPH, FEW),
    "setup": lambda: mask_keys.unmask(
        jax.eval_shape(lambda: mask_keys.setup(SEED, graphs.complete(4, 3))), GRAPH, ALL
    ),
    "alive: complete": lambda: mask_keys.completes(GRAPH, FEW),
    "alive: coded": lambda: lightsecagg.run(SEED, CODE, ELEMENTS, FEW),
    "inputs: coded": lambda: lightsecagg.run(SEED, CODE, TOTAL, ALL),
    "alive: ideal": lambda: lightsecagg.ideal_transcript(SEED, CODE, TOTAL, FEW),
    "alive: completed": lambda: lightsecagg.completes(CODE, FEW),
    "answers": lambda: lightsecagg.mask_of_sum(CODE, jnp.ones(4, bool), ELEMENTS, 3),
    "summed_pieces": lambda: lightsecagg.mask_of_sum(CODE, jnp.ones(5, bool), SHORT, 3),
    "holders": lambda: lightsecagg.decoded(CODE, jnp.arange(2), ELEMENTS, 3),
    "answers: decoded": lambda: lightsecagg.decoded(CODE, jnp.arange(3), ELEMENTS, 3),
    "pieces": lambda: lightsecagg.encode(CODE, ELEMENTS),
    "seeds": lambda: sharing.share_by_seeds(
        jnp.zeros((2, 2), jnp.uint32), INPUTS, REPLICATED
    ),
    "shared.shares": lambda: sharing.reveal(shared(REPLICATED, 2), name="sum"),
    "shared.shares: of a polynomial": lambda: shamir.reveal(
        shared(SHAMIR, 4), name="sum"
    ),
    "reports": lambda: graphs.abort_share(GRAPH, np.array([5, 5]), np.array([5])),
    "alive.shared": lambda: dropouts.nested(*ALL[:1], FEW[1], *ALL[2:]),
    "alive.unmasked": lambda: dropouts.nested(*ALL[:3], jnp.ones(5)),
    "dropout_probs": lambda: dropouts.drop_out(SEED, 5, [0.1, 0.1, 0.1]),
    "dropout_probs: above 1": lambda: dropouts.drop_out(SEED, 5, [0.1, 0.1, 0.1, 2.0]),
    "num_clients": lambda: dropouts.everybody(0),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_length_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name.split(":")[0]):
        CALLS[name]()


@pytest.mark.parametrize("inside", [False, True])
def test_rounds_of_sums_have_an_entry_for_each_of_the_cohort(inside):
    aggregator = smpc.additive_sharing(3, 5, 8.0, mode="identity")
    key, everyone, update = jax.random.key(0), jnp.ones(5, bool), {"w": jnp.ones(3)}

    def begun(invited, reporting):
        return aggregator.begin(key, invited, reporting, 8.0)

    def total(messages, places, present):
        session = begun(everyone, everyone)
        message = aggregator.encode(key, session, jnp.int32(0), update)
        return aggregator.absorb(
            aggregator.empty(message),
            {"w": jnp.stack([message["w"]] * messages)},
            jnp.arange(places),
            jnp.ones(present, bool),
        )

    call = jax.eval_shape if inside else lambda function: function()
    with pytest.raises(ValueError, match="invited and reporting must have the same"):
        call(lambda: begun(everyone, everyone[:4]))
    for lengths, words in (
        ((5, 5, 4), "places and present"),
        ((5, 4, 5), "places and present"),
        ((4, 5, 5), "messages and present"),
    ):
        with pytest.raises(ValueError, match=f"{words} must have the same"):
            call(lambda lengths=lengths: total(*lengths))
