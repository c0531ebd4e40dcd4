"""Secure aggregation by masks in federated rounds: one server, clients that drop out.

In both protocols a client adds a mask to its integers. What the clients that stay send
afterwards lets the server remove the sum of the masks, but no single mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Int, PyTree, UInt32

from ppml_lab import arguments, base, checks, random, trees
from ppml_lab.smpc import field
from ppml_lab.smpc.aggregation import (
    cost,
    dropouts,
    graphs,
    lightsecagg,
    mask_keys,
    masking,
    secure_aggregation,
)
from ppml_lab.smpc.aggregation.sum_encoding import SumEncoding, sum_encoding
from ppml_lab.smpc.ring import Element

MODES = ("identity", "ideal", "full")


class Session(NamedTuple):
    """The session that the participants of a round agree on before they train.

    Attributes:
      places: The place in the protocol of each client of the cohort.
      alive: Who is still there after each round of the protocol, by place.
      seed: The seed of everything random in the protocol.
      setup: What the protocol's clients have agreed on; None where nothing is needed.
    """

    places: Int[Array, " cohort"]
    alive: dropouts.Alive
    seed: UInt32[Array, " 2"]
    setup: Any


class Masks(NamedTuple):
    """A protocol for secure aggregation by masks.

    Attributes:
      setup: `(seed) ->` what the protocol's clients agree on.
      draw: `(session, place, length) -> (mask, pieces)`: the mask that one client adds
        to its vector, and the pieces that it sends besides, which are summed as well.
      remove: `(session, sum of pieces, length) -> (mask of the sum, completed)`.
      completes: `alive ->` whether the protocol completes, computed without secrets.
      least_reports: The fewest reports that can make a sum.
      abort_share: As `base.SecureAggregator`'s.
    """

    setup: Callable[[Array], Any]
    draw: Callable[[Session, Array, int], tuple[Element, Any]]
    remove: Callable[[Session, Any, int], tuple[Element, Bool[Array, ""]]]
    completes: Callable[[dropouts.Alive], Bool[Array, ""]]
    least_reports: Any
    abort_share: Callable[[Any, Any], float]


@arguments.checked
def pairwise_masking(
    graph: graphs.Graph,
    max_abs: Any = None,
    scale: Any = 2.0**16,
    rounding: str = "stochastic",
    *,
    bits: Any = 32,
    wraps: bool = False,
    mode: str = "full",
) -> base.SecureAggregator:
    """Secure aggregation by one server under pairwise masks that cancel in the sum.

    Bonawitz et al., CCS 2017, on `graphs.complete`; Bell et al., CCS 2020, on
    `graphs.k_regular` (see `masking`).

    A round's participants share keys before they train. A client that then drops out,
    as the round decides, leaves masks in the sum, which the server removes with shares
    of the clients that stay. Where too few clients stay for that, the protocol aborts,
    and the round has no sum.

    **Guarantee:** that of the graph: a semi-honest server and fewer than its threshold
    of corrupt clients see uniform words and the sum over those who stay. The decoded
    sum is that of `additive_sharing`, to the bit. That a sum aborts tells how many
    clients were there: with central DP take a sampler for which their number is the
    same for neighbouring data sets, such as `federated.fixed_size`;
    `federated.averaging` asks for it. The emulation computes the protocol's numbers
    with keys far too short to be safe, from a generator that is not cryptographic, in
    one memory.

    Args:
      graph: A graph on as many places as the cohort's arrays are long. Padding counts
        as clients that never came, so a Poisson sampler, whose arrays are longer than
        the expected cohort, needs a threshold below the expected cohort.
        `federated.averaging` refuses a sum that most rounds would abort, such as one on
        a graph of `graphs.k_regular`, which is made for places that are all taken. The
        threshold may be traced except in mode "full".
      max_abs: As in `additive_sharing`.
      scale: As in `additive_sharing`.
      rounding: "stochastic" or "nearest".
      bits: Bits of the sum, as in `additive_sharing`.
      wraps: As in `additive_sharing`.
      mode: "full" makes every key, mask and share; "ideal" uploads words that have the
        same joint distribution, uniform given the sum, at one mask per client;
        "identity" adds the integers themselves. Sum, aborts and stated cost are the
        same in all modes.

    Raises:
      ValueError: If the sum would not fit, or for bad arguments. Also when the
        aggregator begins for a cohort and a mechanism (`federated.averaging` tries it
        when built): if the cohort has not as many places as the graph, or `max_abs` is
        below the mechanism's bound, or is needed and missing.
    """
    graphs.check(graph)
    if mode == "full" and checks.is_traced(graph.threshold):
        raise ValueError(
            "mode 'full' needs a threshold that is not traced, as polynomials have "
            "threshold coefficients; use mode 'identity' or 'ideal'"
        )
    size = graph.num_clients
    encoding = sum_encoding(size, max_abs, scale, rounding, bits=bits, wraps=wraps)
    ring = encoding.ring

    def draw(session: Session, place: Array, length: int) -> tuple[Element, Any]:
        shared = session.alive.shared
        mask = masking.client_mask(session.setup, graph, shared, place, length)
        return mask, ()

    def remove(session: Session, pieces: Any, length: int) -> tuple[Element, Array]:
        del pieces
        opened = mask_keys.unmask(session.setup, graph, session.alive)
        removed = masking.mask_of_sum(opened, graph, session.alive, length, ring=ring)
        return removed, opened.completed

    masks = Masks(
        setup=lambda seed: mask_keys.setup(seed, graph),
        draw=draw,
        remove=remove,
        completes=lambda alive: mask_keys.completes(graph, alive),
        least_reports=graph.threshold,
        abort_share=lambda num_invited, num_reports: graphs.abort_share(
            graph, num_invited, num_reports
        ),
    )

    def messages(dimension: int) -> cost.Messages:
        word_bits = secure_aggregation.word_bits(encoding)
        return cost.bonawitz(graph, dimension, word_bits)

    made = _under_masks(encoding, masks, size, messages, mode)
    return made._replace(name="pairwise_masking")


@arguments.checked
def light_secagg(
    code: lightsecagg.Code,
    max_abs: Any = None,
    scale: Any = 2.0**16,
    rounding: str = "stochastic",
    *,
    wraps: bool = False,
    mode: str = "full",
) -> base.SecureAggregator:
    """Secure aggregation by one server that decodes the sum of the masks in one step.

    So et al., MLSys 2022 (see `lightsecagg`). Decoding needs `code.surviving` clients.
    Sums are modulo 2^31 - 1. A round's participants send each other coded pieces of
    their masks before they train.

    **Guarantee:** that of the code: a semi-honest server and at most `code.privacy`
    corrupt clients see uniform field elements and the sum over those who stay. The
    decoded sum is that of `additive_sharing`, to the bit. For aborts, and for what the
    emulation is not, see `pairwise_masking`.

    Args:
      code: A code for as many clients as the cohort's arrays are long; padding counts
        as clients that never came.
      max_abs: As in `additive_sharing`.
      scale: As in `additive_sharing`.
      rounding: "stochastic" or "nearest".
      wraps: As in `additive_sharing`.
      mode: As in `pairwise_masking`.

    Raises:
      ValueError: As for `pairwise_masking`.
    """
    lightsecagg.check(code)
    size = code.num_clients
    encoding = sum_encoding(size, max_abs, scale, rounding, ring=field.F31, wraps=wraps)

    def draw(session: Session, place: Array, length: int) -> tuple[Element, Any]:
        mask = lightsecagg.client_mask(session.seed, place, length)
        return mask, lightsecagg.coded_mask(session.seed, code, place, length)

    def remove(session: Session, pieces: Any, length: int) -> tuple[Element, Array]:
        answers = session.alive.unmasked
        removed = lightsecagg.mask_of_sum(code, answers, pieces, length)
        return removed, lightsecagg.completes(code, session.alive)

    masks = Masks(
        setup=lambda seed: None,
        draw=draw,
        remove=remove,
        completes=lambda alive: lightsecagg.completes(code, alive),
        least_reports=code.surviving,
        abort_share=lambda num_invited, num_reports: float(
            np.mean(num_reports < code.surviving)
        ),
    )

    def messages(dimension: int) -> cost.Messages:
        word_bits = secure_aggregation.word_bits(encoding)
        return cost.light_secagg(*code, dimension, word_bits)

    made = _under_masks(encoding, masks, size, messages, mode)
    return made._replace(name="light_secagg")


def _under_masks(
    encoding: SumEncoding,
    masks: Masks,
    num_clients: int,
    messages: Callable[[int], cost.Messages],
    mode: str,
) -> base.SecureAggregator:
    """The aggregator of a masking protocol in one of the modes."""
    checks.known("mode", mode, MODES)
    ring = encoding.ring

    def begin(key: base.Key, invited: Any, reporting: Any) -> Session:
        order_key, seed_key = jax.random.split(key)
        numbers = jnp.arange(num_clients, dtype=jnp.int32)
        places = random.permute(order_key, numbers, num_clients)
        here, stays = (
            jnp.zeros_like(who).at[places].set(who) for who in (invited, reporting)
        )
        seed = random.seed(seed_key)
        alive = dropouts.nested(here, here, stays, stays)
        return Session(
            places, alive, seed, masks.setup(seed) if mode == "full" else None
        )

    def of_one_stream(session: Session, place: Array, length: int) -> Element:
        """An ideal mask, from a single stream."""
        seed = random.child(session.seed, place)[None]
        return masking.sum_of_masks(ring, seed, jnp.ones(1, jnp.int32), length)

    def of_all_streams(session: Session, length: int) -> Element:
        seeds = random.child(session.seed, jnp.arange(num_clients))
        signs = session.alive.uploaded.astype(jnp.int32)
        return masking.sum_of_masks(ring, seeds, signs, length)

    def protect(
        key: base.Key, session: Session, place: Any, integers: PyTree
    ) -> tuple[PyTree, Any]:
        del key
        if mode == "identity":
            return integers, ()
        vector, cut = trees.as_vector(integers)
        where, pieces = session.places[place], ()
        if mode == "ideal":
            mask = of_one_stream(session, where, vector.size)
        else:
            mask, pieces = masks.draw(session, where, vector.size)
        return cut(ring.add(vector, mask)), pieces

    def reveal(session: Session, total: tuple[PyTree, Any]) -> tuple[PyTree, Any]:
        uploads, pieces = total
        if mode == "identity":
            return uploads, masks.completes(session.alive)
        vector, cut = trees.as_vector(uploads)
        if mode == "ideal":
            removed = of_all_streams(session, vector.size)
            completed = masks.completes(session.alive)
        else:
            removed, completed = masks.remove(session, pieces, vector.size)
        return cut(ring.subtract(vector, removed)), completed

    return secure_aggregation.modular(
        encoding,
        secure_aggregation.Protection(
            begin,
            protect,
            reveal,
            messages,
            num_clients,
            masks.least_reports,
            masks.abort_share,
        ),
    )
