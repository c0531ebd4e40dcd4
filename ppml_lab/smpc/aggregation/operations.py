"""Operation counts of secure aggregation by masks: closed forms, as in `cost`."""

from __future__ import annotations

from typing import NamedTuple

from ppml_lab import arguments, checks
from ppml_lab.smpc.aggregation import cost, graphs


class Work(NamedTuple):
    """The operations of one party in one run of the protocol.

    Attributes:
      mask_words: Words that are expanded from seeds.
      key_agreements: Diffie-Hellman computations.
      shares: Shamir shares evaluated, of one secret at one point each.
      reconstructions: Secrets interpolated from `threshold` shares.
    """

    mask_words: int
    key_agreements: int
    shares: int
    reconstructions: int


class Operations(NamedTuple):
    """The operations of one client that stays, and of the server."""

    client: Work
    server: Work


@arguments.checked
def of_masked_sum(
    graph: graphs.Graph, dimension: int, num_dropped: int = 0
) -> Operations:
    """The operations of the parties in `cost.bonawitz`.

    A client expands its own mask and one per neighbour. The server expands the own
    masks of clients that stay and, for each client that dropped out, the masks that it
    shared with neighbours that stay. In a k-regular graph the number of the latter
    depends on who drops out: it is counted by its mean over random places, rounded up.
    In the complete graph it is exact.

    Args:
      graph: Which clients are neighbours.
      dimension: The vector's length.
      num_dropped: As in `cost.bonawitz`.

    Raises:
      ValueError: If there is no such graph, too few clients stay, or `dimension` is not
        at least 1.
    """
    num_alive = cost.num_staying(graph, num_dropped)
    checks.at_least("dimension", dimension, 1)
    holders = graph.degree + 1
    cut_pairs = -(-num_dropped * graph.degree * num_alive // (graph.num_clients - 1))
    client = Work(holders * dimension, 2 * graph.degree, 2 * holders, 0)
    server = Work((num_alive + cut_pairs) * dimension, cut_pairs, 0, graph.num_clients)
    return Operations(client, server)
