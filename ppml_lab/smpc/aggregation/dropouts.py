"""Drop-outs: who is still there after each round of a secure aggregation protocol.

The four rounds are those of Bonawitz et al. 2017 and of LightSecAgg (So et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, UInt32

from ppml_lab import arguments, checks, random


class Alive(NamedTuple):
    """The clients still there after each round, a subset of those in the round before.

    Attributes:
      advertised: Clients that joined and sent a public key.
      shared: Clients that sent shares of their secrets, or coded pieces of their masks,
        to the others.
      uploaded: Clients that sent a masked input: the sum is over these.
      unmasked: Clients that answered the server's request for what removes the masks.
    """

    advertised: Bool[Array, " clients"]
    shared: Bool[Array, " clients"]
    uploaded: Bool[Array, " clients"]
    unmasked: Bool[Array, " clients"]


def check(alive: Alive, num_clients: int) -> None:
    """Raises ValueError unless `alive` has one truth value per client and round."""
    check_kind(alive)
    for name, who in alive._asdict().items():
        checks.entries(f"alive.{name}", who, num_clients, "clients")


def check_kind(alive: Alive) -> None:
    """Raises ValueError unless `alive` is an `Alive` of arrays of truth values."""
    if not isinstance(alive, Alive):
        raise ValueError(
            f"alive must be an Alive, got a {type(alive).__name__}; dropouts.everybody "
            "makes one"
        )
    for name, who in alive._asdict().items():
        if getattr(who, "ndim", 0) != 1 or who.dtype != bool:
            raise ValueError(f"alive.{name} must be truth values [clients], got {who}")


def check_inputs(inputs: Any, alive: Alive, num_clients: int) -> None:
    """Raises ValueError unless inputs and `alive` have one row for each client."""
    check_kind(alive)
    shapes = [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(inputs)]
    rows = [(*shape, 0)[0] for shape in shapes]
    if {*rows, *map(len, alive)} != {num_clients} or not rows:
        raise ValueError(
            "inputs and alive must have one row for each of num_clients "
            f"{num_clients}, got {rows[0] if rows else 0} and {[*map(len, alive)]}"
        )


def nested(
    advertised: Bool[Array, " clients"],
    shared: Bool[Array, " clients"],
    uploaded: Bool[Array, " clients"],
    unmasked: Bool[Array, " clients"],
) -> Alive:
    """An `Alive` in which nobody comes back: a round keeps only clients of the last.

    Raises:
      ValueError: Unless all arguments are truth values of equally many clients.
    """
    if not getattr(advertised, "shape", None):
        raise ValueError(f"advertised must be an array [clients], got {advertised!r}")
    check(Alive(advertised, shared, uploaded, unmasked), advertised.shape[0])
    shared = advertised & shared
    uploaded = shared & uploaded
    return Alive(advertised, shared, uploaded, uploaded & unmasked)


@arguments.checked
def everybody(num_clients: int) -> Alive:
    """An `Alive` without drop-outs.

    Raises:
      ValueError: If num_clients is below 1.
    """
    checks.at_least("num_clients", num_clients, 1)
    return nested(*[jnp.ones(num_clients, bool)] * 4)


@arguments.checked
def drop_out(
    seed: UInt32[Array, " 2"],
    num_clients: int,
    dropout_probs: Float[Array, " 4"] | Sequence[float],
) -> Alive:
    """Draws drop-outs, independent for each client and each of the four rounds.

    A client that is left drops out of a round with that round's probability.

    Raises:
      ValueError: If num_clients is below 1, or there are not four probabilities.
    """
    checks.at_least("num_clients", num_clients, 1)
    dropout_probs = jnp.asarray(dropout_probs, jnp.float32)
    checks.entries("dropout_probs", dropout_probs, 4, "rounds of the protocol")
    if not checks.is_traced(dropout_probs):
        for prob in np.asarray(dropout_probs):
            checks.within("dropout_probs", prob, 0, 1)
    words = random.words(seed, 4 * num_clients).reshape(4, num_clients)
    unit = (words >> jnp.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)
    stays = unit >= dropout_probs[:, None]
    return nested(*stays)
