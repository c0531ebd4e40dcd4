"""The communication graph of secure aggregation: who shares pairwise masks with whom.

A sum is safe when the honest clients that stay are connected by masks that the server
cannot remove, and complete when enough holders of each secret stay to open the secret.
In the complete graph both are plain. With k neighbours each and random places on a
ring, both hold with a probability that this module bounds, on the host, in Python
integers.
"""

from __future__ import annotations

import bisect
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from ppml_lab import arguments, checks

# A share of clients times their number, floored: 0.29 * 100 is 28.999999999999996.
_SLACK = 1e-9
# Nats below the wanted tail probability at which its sum may stop: 4e-18 of it.
_NEGLIGIBLE = 40.0


class Graph(NamedTuple):
    """A regular graph over places on a ring, and the threshold of its secrets.

    The neighbours of place i are i + 1, ..., i + degree / 2 and i - 1, ..., i - degree
    / 2, modulo `num_clients`: a Harary graph. With degree `num_clients - 1` everybody
    is everybody's neighbour. The caller gives clients their places: outside the
    complete graph the places must be a random permutation that nobody could foresee.

    Attributes:
      num_clients: At least 3.
      degree: Neighbours of each client: even, or `num_clients - 1`.
      threshold: Shares that open a secret, of the `degree + 1` that its owner and the
        owner's neighbours hold.
    """

    num_clients: int
    degree: int
    threshold: int


class Offsets(NamedTuple):
    """The distances on the ring that meet every pair of neighbours once.

    With `offset` from 1 to `num_offsets`, place i adds its mask with place i + offset
    and place i + offset subtracts it: `y += masks - roll(masks, offset)`.

    Attributes:
      num_offsets: The largest distance.
      half_last: Whether the largest distance is half the ring, as in complete graphs of
        an even size. Pairs at that distance are met twice on the way round, so only the
        first half of the places has a mask there.
    """

    num_offsets: int
    half_last: bool


def check(graph: Graph) -> Graph:
    """Returns `graph`, if there is such a graph.

    Raises:
      ValueError: For fewer than 3 clients, a degree that is neither even nor that of
        the complete graph, or a threshold that the holders of a secret cannot reach.
    """
    num_clients, degree, threshold = graph
    # With two clients, each learns the other's input from the sum.
    checks.at_least("num_clients", num_clients, 3)
    checks.at_least("degree", degree, 2)
    if degree >= num_clients:
        raise ValueError(
            f"degree {degree} needs more than {degree} clients, got {num_clients}: "
            "lower the degree or use graphs.complete"
        )
    if degree % 2 and degree != num_clients - 1:
        raise ValueError(
            f"degree must be even, or {num_clients - 1} for all of {num_clients} "
            f"clients, got {degree}: use {degree + 1}"
        )
    checks.at_least("threshold", threshold, 1)
    if not checks.is_traced(threshold) and threshold > degree + 1:
        raise ValueError(
            f"threshold {threshold} is out of reach: a client and its {degree} "
            f"neighbours hold {degree + 1} shares; lower the threshold or raise the "
            "degree"
        )
    return graph


@arguments.checked
def complete(num_clients: int, threshold: Any = None) -> Graph:
    """The complete graph: every client shares masks with every other client.

    Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine
    Learning", CCS 2017.

    **Guarantee:** fewer than `threshold` corrupt clients and the server learn no more
    than the sum over the clients that stay, and the sum comes out if at least
    `threshold` clients stay. With the default, and up to a third of the clients
    corrupt, a server that lies about who dropped out cannot open both secrets of a
    client either.

    Args:
      num_clients: At least 3.
      threshold: Shares that open a secret; by default more than two thirds.

    Raises:
      ValueError: For fewer than 3 clients, or a threshold outside `[1, num_clients]`.
    """
    checks.at_least("num_clients", num_clients, 3)
    if threshold is None:
        threshold = 2 * num_clients // 3 + 1
    return check(Graph(num_clients, num_clients - 1, threshold))


@arguments.checked
def k_regular(
    num_clients: int,
    corrupt_share: float,
    dropout_share: float,
    *,
    semi_malicious: bool = False,
    correctness_bits: int = 20,
    security_bits: int = 40,
) -> Graph:
    """The graph with the fewest neighbours that is safe and survives drop-outs.

    Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure Single-Server Aggregation with
    (Poly)Logarithmic Overhead", CCS 2020, with the exact tails of the hypergeometric
    distribution where the paper's theorems bound them. The threshold is the lowest safe
    one, at least 2: the server's work grows with the threshold.

    **Guarantee:** for at most `floor(corrupt_share * num_clients)` corrupt clients and
    `floor(dropout_share * num_clients)` drop-outs, chosen before the places are drawn
    at random: except with probability `2^-security_bits` no client has `threshold`
    corrupt neighbours and the honest clients that stay are connected, so that a
    semi-honest server learns their sum only; except with probability
    `2^-correctness_bits` every client keeps `threshold` neighbours, so that the sum
    comes out. `semi_malicious` raises the threshold so that a server that tells some
    holders of a client's shares that the client dropped out and others that it stayed
    cannot open both secrets of the client. The client itself is a holder here and
    answers too, while the paper counts neighbours only: with 1,000 clients, 30% of them
    corrupt and 30% dropping out, the paper's (degree, threshold) of (872, 584) would
    let 873 honest answers and 295 second answers of the corrupt open both secrets; this
    function gives (876, 587).

    Args:
      num_clients: How many take part; no fewer may start with this graph.
      corrupt_share: The share, in [0, 1), of clients that tell the server all they see.
      dropout_share: The share, in [0, 1), of clients that drop out.
      semi_malicious: Whether the server may lie about who dropped out.
      correctness_bits: Failures of the sum are rarer than 2 to minus this.
      security_bits: Failures of privacy are rarer than 2 to minus this.

    Returns:
      The graph with the smallest even degree below `num_clients - 1`.

    Raises:
      ValueError: If no degree suffices, because the shares are too high or the clients
        too few, or for bad arguments.
    """
    checks.at_least("num_clients", num_clients, 3)
    for name, share in {
        "corrupt_share": corrupt_share,
        "dropout_share": dropout_share,
    }.items():
        checks.share(name, share)
    checks.at_least("correctness_bits", correctness_bits, 1)
    checks.at_least("security_bits", security_bits, 1)
    weight = 2 if semi_malicious else 1
    if corrupt_share + weight * dropout_share >= 1:
        raise ValueError(
            f"corrupt_share {corrupt_share} and {'twice ' * semi_malicious}"
            f"dropout_share {dropout_share} must sum to less than 1: lower one of them"
        )

    num_corrupt = num_of(num_clients, corrupt_share)
    num_dropped = num_of(num_clients, dropout_share)
    # Privacy fails in two ways: the first concerns the whole graph, the second a single
    # client, as does a failure of the sum.
    log_unsafe = -(security_bits + 1) * math.log(2)
    log_safe_each = log_unsafe - math.log(num_clients)
    log_correct_each = -correctness_bits * math.log(2) - math.log(num_clients)

    degrees = range(2, num_clients - 1, 2)
    num_bad = num_corrupt + num_dropped
    first = bisect.bisect_left(
        degrees,
        -log_unsafe,
        key=lambda degree: -_log_disconnected(num_clients, degree, num_bad),
    )
    degree = degrees[first] if first < len(degrees) else num_clients
    while degree < num_clients - 1:
        threshold = _rare(num_clients, num_corrupt, degree, log_safe_each)
        if semi_malicious:
            # Both secrets take 2 * threshold answers. The owner and its neighbours give
            # one each, and only the corrupt, fewer than `threshold`, a second.
            threshold = (degree + threshold + 2) // 2
        threshold = max(threshold, 2)
        lost = _rare(num_clients, num_dropped, degree, log_correct_each)
        # Fewer than `threshold` stay if more than `degree - threshold` drop out.
        missing = threshold + lost - (degree + 1)
        if missing <= 0:
            return check(Graph(num_clients, degree, threshold))
        # More neighbours lower neither `threshold` nor `lost`: each makes up for one.
        degree += missing + missing % 2
    raise ValueError(
        f"num_clients {num_clients} is too few for a k-regular graph with "
        f"corrupt_share {corrupt_share} and dropout_share {dropout_share}: use "
        "graphs.complete, more clients or lower shares"
    )


def num_of(num_clients: int, share: float) -> int:
    """The number of clients in a share of them, rounded down: 0.29 of 100 are 29."""
    return math.floor((share + _SLACK) * num_clients)


def offsets(graph: Graph) -> Offsets:
    """The distances at which a loop over the ring meets every pair once.

    Raises:
      ValueError: If there is no such graph.
    """
    degree = check(graph).degree
    return Offsets((degree + 1) // 2, degree % 2 == 1)


def neighbours(graph: Graph) -> Int[np.ndarray, "clients degree"]:
    """Each place's neighbours, int32: first those ahead, then those behind, nearest
    first.

    Raises:
      ValueError: If there is no such graph.
    """
    num_offsets, half_last = offsets(graph)
    ahead = np.arange(1, num_offsets + 1, dtype=np.int32)
    steps = np.concatenate([ahead, -ahead[: num_offsets - half_last]])
    places = np.arange(graph.num_clients, dtype=np.int32)
    return (places[:, None] + steps) % np.int32(graph.num_clients)


def abort_share(
    graph: Graph,
    invited: Int[np.ndarray, " rounds"],
    reports: Int[np.ndarray, " rounds"],
) -> float:
    """The share of rounds in which a secret stays closed, so that there is no sum.

    For the complete graph this is a count. For other graphs each round's clients get
    random places, the same in every call, and all other places stay empty.

    Args:
      graph: Who holds shares, and how many shares open a secret.
      invited: How many clients share keys, in each of the rounds.
      reports: How many of these clients stay to the end.
    """
    num_clients, degree, threshold = check(graph)
    checks.entries("reports", np.asarray(reports), len(invited), "rounds in invited")
    if degree == num_clients - 1:
        return float(np.mean(reports < threshold))
    aborts, rng = 0, np.random.default_rng(0)
    num_offsets, _ = offsets(graph)
    for shared, stay in zip(invited, reports, strict=True):
        order = rng.permutation(num_clients)
        answers = order < stay
        round_trip = np.concatenate([answers, answers[: 2 * num_offsets]])
        passed = np.concatenate([[0], np.cumsum(round_trip)])
        # Answers around the place in the middle of a window of 2 * num_offsets + 1.
        around = passed[2 * num_offsets + 1 :] - passed[:num_clients]
        asked = np.roll(order < shared, -num_offsets)
        aborts += stay == 0 or bool(np.any(asked & (around < threshold)))
    return aborts / len(reports)


def _log_disconnected(num_clients: int, degree: int, num_bad: int) -> float:
    """A bound on log P(the clients that are neither corrupt nor gone fall apart).

    To cut the ring, bad clients must fill two stretches of `degree / 2` places. The
    bound is the number of pairs of stretches, times the probability that all clients of
    a pair are bad.
    """
    if degree > num_bad:
        return -math.inf
    pairs = num_clients * (num_clients - degree - 1) / 2
    all_bad = _log_choose(num_bad, degree) - _log_choose(num_clients, degree)
    return math.log(pairs) + float(all_bad)


def _rare(population: int, marked: int, drawn: int, log_prob: float) -> int:
    """The least m with P(at least m of the `marked` are drawn) at most exp(log_prob).

    Of a `population`, `drawn` are drawn without replacement.
    """
    mean = drawn * (marked / population)
    # Hoeffding's bound, which draws without replacement obey too.
    reach = math.sqrt(drawn / 2 * (_NEGLIGIBLE - log_prob))
    least = max(0, drawn - (population - marked), math.floor(mean))
    most = min(drawn, marked, math.ceil(mean + reach))
    met = np.arange(least, most + 1, dtype=np.float64)
    log_pmf = (
        _log_choose(marked, met)
        + _log_choose(population - marked, drawn - met)
        - _log_choose(population, drawn)
    )
    log_tails = np.logaddexp.accumulate(log_pmf[::-1])
    return least + int(np.count_nonzero(log_tails > log_prob))


def _log_choose(total: Any, chosen: Any) -> Any:
    from scipy import special

    return (
        special.gammaln(total + 1)
        - special.gammaln(chosen + 1)
        - special.gammaln(total - chosen + 1)
    )
