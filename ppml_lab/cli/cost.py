"""`cost`: what secure aggregation sends, and how long that takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ppml_lab.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from ppml_lab.smpc.aggregation.cost import Messages


def cost(
    *,
    num_clients: int,
    dimension: int,
    num_dropped: int = 0,
    corrupt_share: float = 0.1,
    num_servers: int = 3,
    input_bits: int = 16,
    as_json: AsJson = False,
) -> None:
    """Prints bytes by party, rounds and LAN/WAN seconds of each kind of secure
    aggregation.

    Additive sharing sends all shares except one as seeds; "server" is the server that
    gets vectors. The sum of LightSecAgg is modulo 2^31 - 1 where it fits, else modulo
    2^61 - 1.

    Example: python -m ppml_lab cost --num-clients 1000 --dimension 100000
    --num-dropped 100

    Args:
      num_clients: Number of clients that take part, at least 3.
      dimension: Number of entries of a client's vector.
      num_dropped: Clients that drop out; graph and code are made for this number.
      corrupt_share: Share of clients who collude with the server, in [0, 1); graph and
        code are made for it.
      num_servers: Number of servers of additive sharing, at least 2.
      input_bits: Bits of an entry before the sum.
      as_json: Print one JSON array.

    Raises:
      ValueError: If an argument is out of its range.
    """
    from ppml_lab import checks
    from ppml_lab.smpc import cost, graphs, lightsecagg

    checks.at_least("num_clients", num_clients, 3)
    checks.at_least("num_dropped", num_dropped, 0)
    if num_dropped >= num_clients:
        raise ValueError(
            f"num_dropped must be below num_clients {num_clients}, got {num_dropped}"
        )
    checks.share("corrupt_share", corrupt_share)
    bits = cost.modulus_bits(num_clients, input_bits)
    num_staying = num_clients - num_dropped

    def masking(graph: graphs.Graph) -> Messages:
        return cost.bonawitz(graph, dimension, bits, num_dropped=num_dropped)

    def regular() -> Messages:
        share = num_dropped / num_clients
        return masking(graphs.k_regular(num_clients, corrupt_share, share))

    def coded() -> Messages:
        # Elements of the field are sent as words of 32 or 64 bits.
        privacy = graphs.num_of(num_clients, corrupt_share)
        field = lightsecagg.field_of_sum(num_clients, input_bits)
        word_bits = 32 * -(-field.bits // 32)
        return cost.light_secagg(
            num_clients,
            num_staying,
            privacy,
            dimension,
            word_bits,
            num_dropped=num_dropped,
        )

    # Servers' arguments are checked here: additive sharing fails for no other reason.
    shared = cost.additive_sharing(
        num_servers, dimension, bits, num_clients=num_staying
    )
    rows = [
        _row("additive sharing", lambda: shared),
        _row("pairwise masking", lambda: masking(graphs.complete(num_clients))),
        _row("pairwise masking, k-regular", regular),
        _row("LightSecAgg", coded),
    ]
    if as_json:
        print_json(rows)
        return
    print_table([{k: v for k, v in row.items() if k != "impossible"} for row in rows])
    for row in rows:
        if row["impossible"]:
            print(f"{row['protocol']}: {row['impossible']}")


def _row(protocol: str, build: Callable[[], Messages]) -> dict[str, Any]:
    """Returns a protocol's numbers, or the reason why these clients cannot run it."""
    from ppml_lab.smpc import cost
    from ppml_lab.smpc.network import LAN, WAN

    names = (*cost.Traffic._fields, "lan_seconds", "wan_seconds")
    try:
        messages = build()
    except ValueError as error:
        return {"protocol": protocol, **dict.fromkeys(names), "impossible": str(error)}
    times = (cost.seconds(messages, links) for links in (LAN, WAN))
    numbers = (*cost.traffic(messages), *times)
    found = dict(zip(names, numbers, strict=True))
    return {"protocol": protocol, **found, "impossible": None}
