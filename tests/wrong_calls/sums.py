"""Good calls of smpc."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppml_lab import smpc
from ppml_lab.smpc import (
    dropouts,
    lightsecagg,
    masking,
    private,
    private_costs,
    shamir,
    sharing,
)
from ppml_lab.smpc import ring as rings
from ppml_lab.smpc.aggregation import sums

from . import parts
from .values import ANY, good

MAY_BE = {"max_abs": ("None",)}
"""Then the mechanism's own bound is taken."""
SUMS = {"max_abs": 1.0, "scale": 16.0, "rounding": "nearest", "wraps": False}
SEED = np.zeros(2, np.uint32)
ARRAYS = ("2-d", "two floats", "float32 nan")
ELEMENTS = {
    ring: jax.eval_shape(lambda ring=ring: rings.zeros(ring, (5, 3)))
    for ring in (rings.Z32, smpc.field.F31, rings.Z64)
}
EVERYBODY = dropouts.everybody(5)
SECRET: Any = jax.eval_shape(
    lambda: private.share(parts.PROTOCOL, jnp.zeros(2, jnp.uint32), jnp.ones((5, 3)))
)
SHAMIR = shamir.shamir(2, 5)
REALS = ("0", "-1", "1.5", "True", "1e-50", "[1]", "two floats", "2-d")
REALS += ("None", "()", "{}")
ON_SHARES = {
    "private.protocol": good(
        private.protocol,
        kind="replicated",
        num_parties=3,
        ring=rings.Z64,
        fraction_bits=16,
        truncation_method="msb",
        ideal=False,
    ),
    "private.share": good(
        private.share,
        {"values": REALS, "owner": ("0", "'1'", "''")},
        False,
        protocol=parts.PROTOCOL,
        seed=SEED,
        values=np.ones(3),
        owner="client",
        offline=False,
    ),
    "private.reveal": good(
        private.reveal,
        {"shared": ANY, "name": ("'1'", "''"), "receivers": ("[1]",)},
        False,
        protocol=parts.PROTOCOL,
        shared=SECRET,
        name="output",
        receivers=None,
    ),
    "private.rows": good(
        private.rows,
        {"begin": ("0",), "count": ("0",), "shared": ("()", "{}", "None")},
        False,
        shared=SECRET,
        begin=1,
        count=2,
    ),
    "private.evaluate": good(
        lambda protocol, seed, function: private.evaluate(
            protocol, seed, function, SECRET
        ),
        {},
        False,
        protocol=parts.PROTOCOL,
        seed=SEED,
        function=lambda rows: rows,
    ),
    "private_costs.by_layer": good(
        private_costs.by_layer,
        {"depth": ("0",), "params": ARRAYS, "inputs": ARRAYS},
        False,
        protocol=parts.PROTOCOL,
        function=lambda params, rows: rows @ params,
        params=jnp.zeros((2, 3)),
        inputs=jnp.zeros((4, 2)),
        depth=1,
    ),
    "private.check_ranges": good(
        lambda protocol, function, public: private.check_ranges(
            protocol, function, np.ones(3), public=public
        ),
        {"public": ("()",)},
        False,
        protocol=parts.PROTOCOL,
        function=lambda rows: rows,
        public=(0,),
    ),
    "private.unsupported": good(
        lambda function, public: private.unsupported(
            function, np.ones(3), public=public
        ),
        {"public": ("()",)},
        False,
        function=lambda rows: rows,
        public=(0,),
    ),
    "masking.run": good(
        masking.run,
        {"inputs": ("a function",)},
        False,
        seed=SEED,
        graph=parts.GRAPH,
        inputs=ELEMENTS[rings.Z32],
        alive=EVERYBODY,
        ring=rings.Z32,
        chunk=1024,
        num_chunks=None,
        mesh=None,
    ),
    "lightsecagg.run": good(
        lightsecagg.run,
        {},
        False,
        seed=SEED,
        code=parts.CODE,
        inputs=ELEMENTS[smpc.field.F31],
        alive=EVERYBODY,
        field=smpc.field.F31,
    ),
    "dropouts.everybody": good(dropouts.everybody, num_clients=5),
    "dropouts.nested": good(dropouts.nested, {}, False, **EVERYBODY._asdict()),
    "dropouts.drop_out": good(
        dropouts.drop_out, {}, False, seed=SEED, num_clients=5, dropout_probs=[0.1] * 4
    ),
    "sharing.share": good(
        sharing.share,
        {"first_block": ("0",)},
        False,
        seed=SEED,
        secret=ELEMENTS[rings.Z64],
        scheme=parts.PROTOCOL.scheme,
        first_block=0,
    ),
    "sharing.reveal": good(
        sharing.reveal,
        {"name": ("'1'", "''"), "receivers": ("[1]",)},
        False,
        shared=SECRET,
        name="sum",
        receivers=None,
    ),
    "shamir.reveal": good(
        shamir.reveal,
        {"name": ("'1'", "''"), "receivers": ("[1]",)},
        False,
        shared=sharing.Shared(ELEMENTS[smpc.field.F31], SHAMIR),
        name="sum",
        parties=[0, 1],
        receivers=None,
    ),
}
SMPC = ON_SHARES | {
    "fixed_point": good(
        smpc.fixed_point,
        {"bits": ("None",)},
        num_summands=3,
        max_abs=1.0,
        scale=16.0,
        rounding="nearest",
        ring=smpc.ring.Z32,
        bits=16,
        wraps=False,
    ),
    "bits_needed": good(smpc.bits_needed, num_summands=3, max_abs=1.0, scale=16.0),
    "headroom": good(smpc.headroom, num_summands=3, max_abs=1.0, scale=16.0, bits=16),
    "largest_scale": good(smpc.largest_scale, num_summands=3, max_abs=1.0, bits=16),
    "power_of_two": good(smpc.power_of_two, {"exponent": ("0", "-1")}, exponent=3),
    "summing": good(
        smpc.summing,
        encode=lambda key, session, place, update: update,
        decode=lambda session, total: (total, True),
        cost=lambda dimension: smpc.clear().cost(dimension),
        begin=lambda key, invited, reporting, max_abs: (),
        addition=sums.REAL,
        least_reports=2,
    ),
    "additive_sharing": good(
        smpc.additive_sharing,
        MAY_BE | {"bits": ("None",)},
        num_parties=3,
        max_clients=5,
        least_reports=1,
        bits=32,
        mode="full",
        **SUMS,
    ),
    "pairwise_masking": good(
        smpc.pairwise_masking,
        MAY_BE | {"bits": ("None",)},
        graph=parts.GRAPH,
        bits=32,
        mode="full",
        **SUMS,
    ),
    "light_secagg": good(
        smpc.light_secagg, MAY_BE, code=parts.CODE, mode="full", **SUMS
    ),
    "graphs.complete": good(
        smpc.graphs.complete, {"threshold": ("None",)}, num_clients=5, threshold=3
    ),
    "graphs.k_regular": good(
        smpc.graphs.k_regular,
        {"corrupt_share": ("0",), "dropout_share": ("0",)},
        num_clients=100,
        corrupt_share=0.1,
        dropout_share=0.1,
        semi_malicious=False,
        correctness_bits=10,
        security_bits=10,
    ),
    "cost.modulus_bits": good(smpc.cost.modulus_bits, num_clients=5, input_bits=8),
    "cost.closed_form_bits": good(
        smpc.cost.closed_form_bits,
        num_holders=5,
        dimension=10,
        word_bits=16,
        key_bits=8,
        share_bits=8,
    ),
    "cost.bonawitz": good(
        smpc.cost.bonawitz,
        {"num_dropped": ("0",)},
        graph=parts.GRAPH,
        dimension=10,
        word_bits=16,
        num_dropped=1,
        key_bits=8,
        share_bits=8,
    ),
    "cost.additive_sharing": good(
        smpc.cost.additive_sharing,
        num_parties=3,
        dimension=10,
        word_bits=16,
        num_clients=5,
        compressed=True,
        seed_bits=8,
    ),
    "cost.light_secagg": good(
        smpc.cost.light_secagg,
        {"num_dropped": ("0",), "privacy": ("0",)},
        num_clients=5,
        surviving=3,
        privacy=1,
        dimension=10,
        word_bits=16,
        num_dropped=1,
    ),
    **{
        f"cost.{name}": good(
            getattr(smpc.cost, name),
            {"messages": ("()",)},
            messages=parts.MESSAGES,
            party="client",
        )
        for name in ("sent_bits", "received_bits", "by_message")
    },
    **{
        f"cost.{name}": good(
            getattr(smpc.cost, name), {"messages": ("()",)}, messages=parts.MESSAGES
        )
        for name in ("num_rounds", "traffic")
    },
    "cost.expansion": good(
        smpc.cost.expansion,
        {"client_bits": ("()", "0")},
        client_bits=100,
        dimension=10,
        input_bits=8,
    ),
    "cost.seconds": good(
        smpc.cost.seconds,
        {"messages": ("()",)},
        messages=parts.MESSAGES,
        links=smpc.network.LAN,
        party="client",
    ),
    "operations.of_masked_sum": good(
        smpc.operations.of_masked_sum,
        {"num_dropped": ("0",)},
        graph=parts.GRAPH,
        dimension=10,
        num_dropped=1,
    ),
    "network.seconds": good(
        smpc.network.seconds,
        {"busiest_bits": ("0",), "exchanges": ("0",), "round_trips": ("0",)},
        busiest_bits=100,
        network=smpc.network.LAN,
        exchanges=1,
        round_trips=1,
    ),
    "lightsecagg.field_of_sum": good(
        smpc.lightsecagg.field_of_sum, num_clients=5, input_bits=8
    ),
    "sharing.additive": good(
        smpc.sharing.additive,
        num_parties=3,
        ring=smpc.ring.Z32,
        scale=1.0,
        ideal=False,
    ),
    "sharing.replicated": good(
        smpc.sharing.replicated, ring=smpc.ring.Z32, scale=1.0, ideal=False
    ),
    "shamir.shamir": good(
        smpc.shamir.shamir,
        threshold=2,
        num_parties=5,
        field=smpc.field.F31,
        scale=1.0,
    ),
}
