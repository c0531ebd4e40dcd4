"""Closed forms of what protocols send and of how long sending takes.

A protocol's cost is the tuple of its messages, known before anything runs: exact Python
integers, in bits, that depend on shapes only. The model that every federated round
sends to the clients is not part of it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ppml_lab import arguments, checks
from ppml_lab.smpc import network, transcript
from ppml_lab.smpc.aggregation import graphs, lightsecagg
from ppml_lab.smpc.network import Network

_KEY_BITS = 256
_SHARE_BITS = 256

Role = Literal["client", "server", "helper"]


class Message(NamedTuple):
    """One kind of message, for all who send it.

    Attributes:
      name: What is sent.
      sender: The role that sends: "client", "server" or, of several servers, "helper"
        for all but the first.
      receiver: The role that receives, in equal parts.
      num_bits: Bits that one sender sends to all its receivers together.
      num_senders: How many have the sending role in this message.
      num_receivers: How many have the receiving role in this message.
      round_number: The protocol's round, from 0; what a round sends depends on what
        earlier rounds received.
    """

    name: str
    sender: Role
    receiver: Role
    num_bits: int
    num_senders: int
    num_receivers: int
    round_number: int


Messages = tuple[Message, ...]


class Traffic(NamedTuple):
    """The bytes of a protocol's messages, rounded up, and its rounds.

    Attributes:
      uplink_bytes: Bytes that one client sends, to any receiver.
      downlink_bytes: Bytes that one client receives.
      server_bytes: Bytes that the server sends and receives; of several the busiest.
      num_rounds: Rounds of messages that wait for each other.
    """

    uplink_bytes: int
    downlink_bytes: int
    server_bytes: int
    num_rounds: int


@arguments.checked
def modulus_bits(num_clients: int, input_bits: int) -> int:
    """Bits of a word that holds the sum of `num_clients` inputs of `input_bits` each.

    They are `ceil(log2(n (2^b - 1) + 1))`, exactly.

    Raises:
      ValueError: If an argument is not at least 1.
    """
    checks.at_least("num_clients", num_clients, 1)
    checks.within("input_bits", input_bits, 1, 65536)
    return (num_clients * (2**input_bits - 1)).bit_length()


@arguments.checked
def closed_form_bits(
    num_holders: int,
    dimension: int,
    word_bits: int,
    key_bits: int = _KEY_BITS,
    share_bits: int = _SHARE_BITS,
) -> int:
    """Bits that one client sends and receives: `2 n a_K + (5 n - 4) a_S + m w`.

    Bonawitz et al. 2017, section 7; `bonawitz` itemises them. In the paper n counts all
    clients, because every client holds a share of each secret, its owner included; with
    k neighbours n is k + 1. (Published comparisons also put n = k.)

    Args:
      num_holders: n, the holders of shares of a client's secrets, the client included.
      dimension: m, the vector's length.
      word_bits: w, bits of one masked coordinate.
      key_bits: a_K, bits of a public key.
      share_bits: a_S, bits of a share.

    Raises:
      ValueError: If a size is not at least 1.
    """
    _check_sizes(num_holders=num_holders, dimension=dimension, word_bits=word_bits)
    _check_sizes(key_bits=key_bits, share_bits=share_bits)
    keys, shares = 2 * num_holders, 5 * num_holders - 4
    return keys * key_bits + shares * share_bits + dimension * word_bits


@arguments.checked
def bonawitz(
    graph: graphs.Graph,
    dimension: int,
    word_bits: int,
    *,
    num_dropped: int = 0,
    key_bits: int = _KEY_BITS,
    share_bits: int = _SHARE_BITS,
) -> Messages:
    """The messages of secure aggregation by pairwise masks, semi-honest, on any graph.

    Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine
    Learning", CCS 2017; on a k-regular graph Bell et al., CCS 2020. One client's bits
    sum to `closed_form_bits` with `degree + 1` holders. As in the papers' count, lists
    of names, signatures and what encryption adds to a share are left out.

    Args:
      graph: Which clients are neighbours.
      dimension: The vector's length.
      word_bits: Bits of one masked coordinate: `modulus_bits` at least.
      num_dropped: Clients that drop out after sharing their keys, when they cost the
        server most. Numbers per client are those of a client that stays.
      key_bits: Bits of a public key.
      share_bits: Bits of a share of a seed or a private key.

    Raises:
      ValueError: If there is no such graph, too few clients stay, or a size is not at
        least 1.
    """
    num_alive = num_staying(graph, num_dropped)
    _check_sizes(dimension=dimension, word_bits=word_bits)
    _check_sizes(key_bits=key_bits, share_bits=share_bits)
    everybody, peers = graph.num_clients, graph.degree
    # One key pair for masks and one to encrypt shares; two secrets to share.
    keys, shares = 2 * key_bits, 2 * share_bits * peers
    return (
        _up("advertise_keys", keys, everybody, 0),
        _down("neighbours_keys", keys * peers, everybody, 0),
        _up("encrypted_shares", shares, everybody, 1),
        _down("neighbours_shares", shares, everybody, 1),
        _up("masked_input", dimension * word_bits, num_alive, 2),
        # One of the two secrets of every neighbour, and of the client itself.
        _up("unmasking_shares", share_bits * (peers + 1), num_alive, 3),
    )


@arguments.checked
def additive_sharing(
    num_parties: int,
    dimension: int,
    word_bits: int,
    *,
    num_clients: int = 1,
    compressed: bool = True,
    seed_bits: int = transcript.SEED_BITS,
) -> Messages:
    """The messages of additive sharing among servers that open the sum to each other.

    All shares but one are expanded from seeds, as in Prio (Corrigan-Gibbs, Boneh, NSDI
    2017) and as `sharing.share` makes them: the first server gets a vector of each
    client, the others ("helper") a seed, and a client sends hardly more than its bare
    vector, whatever the number of servers.

    Args:
      num_parties: Servers, at least 2.
      dimension: The vector's length.
      word_bits: Bits of one coordinate of a share.
      num_clients: How many clients share; only the servers' numbers depend on it.
      compressed: Whether shares are sent as seeds; otherwise each is a whole vector.
      seed_bits: Bits of a seed.

    Raises:
      ValueError: For fewer than 2 servers, or a size that is not at least 1.
    """
    checks.at_least("num_parties", num_parties, 2)
    _check_sizes(dimension=dimension, word_bits=word_bits)
    _check_sizes(num_clients=num_clients, seed_bits=seed_bits)
    vector, helpers = dimension * word_bits, num_parties - 1
    to_helper = seed_bits if compressed else vector
    inputs = (
        Message("share", "client", "server", vector, num_clients, 1, 0),
        Message(
            "seeds" if compressed else "shares",
            "client",
            "helper",
            helpers * to_helper,
            num_clients,
            helpers,
            0,
        ),
    )
    opened = (
        Message("sum", "server", "helper", helpers * vector, 1, helpers, 1),
        Message("helpers_sum", "helper", "server", vector, helpers, 1, 1),
    )
    if helpers == 1:
        return (*inputs, *opened)
    others = (helpers - 1) * vector
    among = Message("sum_to_others", "helper", "helper", others, helpers, helpers, 1)
    return (*inputs, *opened, among)


@arguments.checked
def light_secagg(
    num_clients: int,
    surviving: int,
    privacy: int,
    dimension: int,
    word_bits: int,
    *,
    num_dropped: int = 0,
) -> Messages:
    """The messages of secure aggregation by coded masks, removed all at once.

    So, He, Yang, Li, Yu, Ali, Guler, Avestimehr, "LightSecAgg: a Lightweight and
    Versatile Design for Secure Aggregation in Federated Learning", MLSys 2022. A mask
    is cut into `surviving - privacy` pieces, and every client gets one coded piece. The
    server relays the pieces, as the shares in `bonawitz`. All who stay answer, and the
    server needs `surviving` answers.

    Args:
      num_clients: How many take part.
      surviving: U, how many must stay, above `privacy`.
      privacy: T, how many may collude with the server.
      dimension: The vector's length.
      word_bits: Bits of an element of a field that holds the sum:
        `lightsecagg.field_of_sum` chooses the field.
      num_dropped: Clients that drop out after sending their coded masks, as in
        `bonawitz`.

    Raises:
      ValueError: Unless `privacy < surviving <= num_clients`, if fewer than `surviving`
        stay, or if a size is not at least 1.
    """
    code = lightsecagg.check(lightsecagg.Code(num_clients, surviving, privacy))
    _check_sizes(dimension=dimension, word_bits=word_bits)
    num_alive = _left(num_clients, num_dropped, surviving, "surviving")
    piece = lightsecagg.piece_length(code, dimension) * word_bits
    pieces = (num_clients - 1) * piece
    return (
        _up("coded_masks", pieces, num_clients, 0),
        _down("coded_masks", pieces, num_clients, 0),
        _up("masked_input", dimension * word_bits, num_alive, 1),
        _up("summed_masks", piece, num_alive, 2),
    )


@arguments.checked
def sent_bits(messages: Messages, party: Role) -> int:
    """The bits that one holder of the role `party` sends."""
    return sum(m.num_bits for m in messages if m.sender == party)


@arguments.checked
def received_bits(messages: Messages, party: Role) -> int:
    """The bits that one holder of the role `party` receives."""
    return sum(_received(m) for m in messages if m.receiver == party)


@arguments.checked
def by_message(messages: Messages, party: Role = "client") -> dict[str, dict[str, int]]:
    """One `party`'s bits by direction, "sent" or "received", and by message's name."""
    return {
        "sent": {m.name: m.num_bits for m in messages if m.sender == party},
        "received": {m.name: _received(m) for m in messages if m.receiver == party},
    }


@arguments.checked
def num_rounds(messages: Messages) -> int:
    """The number of rounds of messages that wait for each other."""
    return len({m.round_number for m in messages})


@arguments.checked
def num_exchanges(messages: Messages) -> int:
    """The number of rounds among servers alone, whose senders wait for no answer."""
    answered = {m.round_number for m in messages if "client" in (m.sender, m.receiver)}
    return num_rounds(messages) - len(answered)


@arguments.checked
def traffic(messages: Messages) -> Traffic:
    """A protocol's bytes per client and direction, per server, and its rounds."""
    server = sent_bits(messages, "server") + received_bits(messages, "server")
    return Traffic(
        -(-sent_bits(messages, "client") // 8),
        -(-received_bits(messages, "client") // 8),
        -(-server // 8),
        num_rounds(messages),
    )


@arguments.checked
def expansion(client_bits: int | Messages, dimension: int, input_bits: int) -> float:
    """A client's traffic in both directions over its bare input, as papers print it.

    Args:
      client_bits: A protocol's messages, or a client's bits in both directions.
      dimension: The vector's length.
      input_bits: Bits of one coordinate before masking.

    Raises:
      ValueError: If a size is not at least 1.
    """
    _check_sizes(dimension=dimension, input_bits=input_bits)
    if isinstance(client_bits, int):
        checks.at_least("client_bits", client_bits, 0)
    else:
        both = (way(client_bits, "client") for way in (sent_bits, received_bits))
        client_bits = sum(both)
    return client_bits / (dimension * input_bits)


@arguments.checked
def seconds(messages: Messages, links: Network, party: str | None = None) -> float:
    """The seconds that a protocol's messages take (`network.seconds`).

    They are a round trip per round with clients in it, whom a server answers; half a
    round trip per round among servers; and the time of the busiest link, that of the
    party and direction with most bits. With many clients that link is the server's.

    Args:
      messages: A protocol's.
      links: `LAN`, `WAN` or another network, of all parties.
      party: Count this role's link only, as if all others' were infinitely fast.

    Raises:
      ValueError: If no message concerns `party`, the bandwidth is not positive or the
        round trip is negative.
    """
    parties = {role for m in messages for role in (m.sender, m.receiver)}
    if party is not None:
        checks.known("party", party, parties)
        parties = {role for role in parties if role == party}
    ways = (sent_bits, received_bits)
    busiest = max((way(messages, role) for role in parties for way in ways), default=0)
    exchanges = num_exchanges(messages)
    trips = num_rounds(messages) - exchanges
    return network.seconds(busiest, links, exchanges=exchanges, round_trips=trips)


def _up(name: str, num_bits: int, num_clients: int, round_number: int) -> Message:
    return Message(name, "client", "server", num_bits, num_clients, 1, round_number)


def _down(name: str, num_bits: int, num_clients: int, round_number: int) -> Message:
    """The server's message of `num_bits` to each client."""
    total = num_bits * num_clients
    return Message(name, "server", "client", total, 1, num_clients, round_number)


def _received(message: Message) -> int:
    total = message.num_bits * message.num_senders
    if total % message.num_receivers:
        raise ValueError(
            f"message {message.name}: {total} bits do not divide evenly among "
            f"num_receivers {message.num_receivers}; use one message per kind of "
            "receiver"
        )
    return total // message.num_receivers


def num_staying(graph: graphs.Graph, num_dropped: int) -> int:
    """The number of a graph's clients that stay, if its protocol does not abort.

    Raises:
      ValueError: If there is no such graph, or fewer clients stay than its threshold.
    """
    graphs.check(graph)
    return _left(graph.num_clients, num_dropped, graph.threshold, "threshold")


def _left(num_clients: int, num_dropped: int, least: int, name: str) -> int:
    checks.at_least("num_dropped", num_dropped, 0)
    num_alive = num_clients - num_dropped
    if num_alive < least:
        raise ValueError(
            f"num_dropped {num_dropped} leaves {num_alive} of {num_clients} "
            f"clients, below the {name} {least}: the protocol aborts; "
            f"drop fewer or lower the {name}"
        )
    return num_alive


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        checks.at_least(name, size, 1)
