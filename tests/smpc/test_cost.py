"""Bytes of protocols: published expansions, closed forms and where messages go."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ppml_lab.smpc import cost, field, graphs, lightsecagg, network, operations

counts = st.integers(1, 10_000)
quick = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def any_graph(draw):
    n = draw(st.integers(3, 2000))
    degree = draw(st.sampled_from(sorted({*range(2, n, 2), n - 1})))
    return graphs.Graph(n, degree, draw(st.integers(1, degree + 1)))


@given(n=st.integers(1, 2**40), bits=st.integers(1, 64))
@example(n=1, bits=1)
@example(n=2**14, bits=16)
@quick
def test_modulus_holds_the_largest_sum_and_no_more(n, bits):
    found = cost.modulus_bits(n, bits)
    assert 2 ** (found - 1) < n * (2**bits - 1) + 1 <= 2**found


def test_modulus_bits():
    assert cost.modulus_bits(1, 1) == 1
    assert cost.modulus_bits(1, 16) == 16
    assert cost.modulus_bits(1000, 16) == 26
    assert cost.modulus_bits(3, 2) == math.ceil(math.log2(3 * 3 + 1))


# Clients, holders of a secret (n, or k in its place), dimension, printed expansion.
EXPANSIONS = [
    (2**10, 2**10, 2**20, 1.734),
    (2**14, 2**14, 2**24, 1.984),
    (1000, 1000, 2**20, 1.7318),
    (1000, 98, 2**20, 1.6354),
    (1000, 1000, 10**5, 2.744),
    (1000, 98, 10**5, 1.734),
    (10_000, 10_000, 10**5, 13.07),
    (10_000, 122, 10**5, 2.01),
]


@pytest.mark.parametrize(("n", "holders", "dimension", "printed"), EXPANSIONS)
def test_published_expansions_by_the_closed_form(n, holders, dimension, printed):
    word_bits = cost.modulus_bits(n, 16)
    bits = cost.closed_form_bits(holders, dimension, word_bits)
    found = cost.expansion(bits, dimension, 16)
    assert round(found, len(str(printed).split(".")[1])) == printed
    if holders == n:
        messages = cost.bonawitz(graphs.complete(n), dimension, word_bits)
        assert cost.expansion(messages, dimension, 16) == found


def test_expansions_in_the_abstract():
    for users, dimension, printed in ((2**10, 2**20, 1.73), (2**14, 2**24, 1.98)):
        word_bits = cost.modulus_bits(users, 16)
        messages = cost.bonawitz(graphs.complete(users), dimension, word_bits)
        assert round(cost.expansion(messages, dimension, 16), 2) == printed


@given(graph=any_graph(), dimension=counts, word=counts, key=counts, share=counts)
@quick
def test_messages_sum_to_the_closed_form(graph, dimension, word, key, share):
    messages = cost.bonawitz(graph, dimension, word, key_bits=key, share_bits=share)
    n = graph.degree + 1
    bits = cost.sent_bits(messages, "client") + cost.received_bits(messages, "client")
    assert bits == 2 * n * key + (5 * n - 4) * share + dimension * word
    assert bits == cost.closed_form_bits(n, dimension, word, key, share)


def test_the_k_of_a_graph_leaves_out_the_client_itself():
    """With k neighbours and itself, k + 1 hold a share where the paper has n."""
    graph = graphs.k_regular(1000, 0.2, 0.2)
    messages = cost.bonawitz(graph, 2**20, 26)
    bits = cost.sent_bits(messages, "client") + cost.received_bits(messages, "client")
    assert bits - cost.closed_form_bits(98, 2**20, 26) == (2 + 5) * 256


@given(graph=any_graph(), dimension=counts, word=counts)
@quick
def test_what_is_sent_is_received(graph, dimension, word):
    messages = cost.bonawitz(graph, dimension, word)
    n = graph.num_clients
    for one, other in (("client", "server"), ("server", "client")):
        num_senders, num_receivers = (n, 1) if one == "client" else (1, n)
        sent = cost.sent_bits(messages, one) * num_senders
        assert sent == cost.received_bits(messages, other) * num_receivers


def test_three_clients_by_hand():
    """A key is 10 bits, a share 100, a word 1000, the vector 2 words."""
    graph = graphs.complete(3, 2)
    messages = cost.bonawitz(graph, 2, 1000, num_dropped=1, key_bits=10, share_bits=100)
    assert cost.by_message(messages) == {
        "sent": {
            "advertise_keys": 20,
            "encrypted_shares": 400,
            "masked_input": 2000,
            "unmasking_shares": 300,
        },
        "received": {"neighbours_keys": 40, "neighbours_shares": 400},
    }
    # The third client sends keys and shares, but neither its input nor shares at last.
    assert cost.by_message(messages, "server") == {
        "sent": {"neighbours_keys": 120, "neighbours_shares": 1200},
        "received": {
            "advertise_keys": 60,
            "encrypted_shares": 1200,
            "masked_input": 4000,
            "unmasking_shares": 600,
        },
    }
    assert cost.traffic(messages) == cost.Traffic(
        uplink_bytes=340, downlink_bytes=55, server_bytes=898, num_rounds=4
    )


@given(graph=any_graph(), data=st.data())
@quick
def test_dropouts_change_nothing_for_those_who_stay(graph, data):
    num_dropped = data.draw(st.integers(0, graph.num_clients - graph.threshold))
    without = cost.bonawitz(graph, 100, 32)
    messages = cost.bonawitz(graph, 100, 32, num_dropped=num_dropped)
    assert cost.by_message(messages) == cost.by_message(without)
    saved = num_dropped * (100 * 32 + 256 * (graph.degree + 1))
    received = cost.received_bits(without, "server") - saved
    assert cost.received_bits(messages, "server") == received


def test_numbers_are_python_integers():
    for messages in (
        cost.bonawitz(graphs.k_regular(1000, 0.1, 0.1), 10**9, 26),
        cost.additive_sharing(3, 10**9, 64, num_clients=1000),
        cost.light_secagg(100, 70, 50, 10**9, 32),
    ):
        assert all(type(number) is int for number in cost.traffic(messages))
        assert type(cost.seconds(messages, network.LAN)) is float
        hash(messages)


@given(
    parties=st.integers(2, 9),
    dimension=counts,
    word=counts,
    clients=counts,
    compressed=st.booleans(),
)
@quick
def test_additive_sharing(parties, dimension, word, clients, compressed):
    messages = cost.additive_sharing(
        parties, dimension, word, num_clients=clients, compressed=compressed
    )
    vector = dimension * word
    share = 256 if compressed else vector
    assert cost.sent_bits(messages, "client") == vector + (parties - 1) * share
    assert cost.received_bits(messages, "client") == 0
    # Per server: a share of each client, then a sum to and from each other server.
    for role, held in (("server", vector), ("helper", share)):
        assert cost.sent_bits(messages, role) == (parties - 1) * vector
        received = clients * held + (parties - 1) * vector
        assert cost.received_bits(messages, role) == received
    assert cost.num_rounds(messages) == 2


def test_a_sum_over_three_servers_goes_up_once():
    messages = cost.additive_sharing(3, 100_000, 26, num_clients=900)
    assert cost.traffic(messages).uplink_bytes == 325_000 + 2 * 32


def test_light_secagg_as_published():
    messages = cost.light_secagg(100, 70, 50, 10**6, 32, num_dropped=30)
    megabytes = {
        name: bits / 8e6 for name, bits in cost.by_message(messages)["sent"].items()
    }
    assert megabytes == {"coded_masks": 19.8, "masked_input": 4.0, "summed_masks": 0.2}
    assert cost.by_message(messages)["received"] == {"coded_masks": 19.8 * 8e6}
    # Pieces go through the server, and who dropped out uploads nothing.
    received = {"coded_masks": 1980, "masked_input": 70 * 4, "summed_masks": 70 * 0.2}
    assert cost.by_message(messages, "server") == {
        "sent": {"coded_masks": 1980 * 8e6},
        "received": {name: size * 8e6 for name, size in received.items()},
    }
    assert cost.num_rounds(messages) == 3
    with pytest.raises(ValueError, match=r"num_dropped 31 leaves 69 .* surviving 70"):
        cost.light_secagg(100, 70, 50, 10**6, 32, num_dropped=31)


@given(n=counts, bits=st.integers(1, 80))
@example(n=1, bits=31)
@example(n=1, bits=61)
@example(n=2**30, bits=1)
@quick
def test_light_secagg_runs_in_a_field_that_holds_the_sum(n, bits):
    largest = n * (2**bits - 1)
    if largest > 2**61 - 2:
        with pytest.raises(ValueError, match=f"input_bits {bits} for {n} clients"):
            lightsecagg.field_of_sum(n, bits)
    else:
        found = lightsecagg.field_of_sum(n, bits)
        assert found is (field.F31 if largest <= 2**31 - 2 else field.F61)


@given(n=st.integers(3, 300), dimension=counts, data=st.data())
@quick
def test_light_secagg_pieces_hold_the_mask(n, dimension, data):
    surviving = data.draw(st.integers(1, n))
    privacy = data.draw(st.integers(0, surviving - 1))
    messages = cost.light_secagg(n, surviving, privacy, dimension, 31)
    sent = cost.by_message(messages)["sent"]
    piece, rest = divmod(sent["summed_masks"], 31)
    assert rest == 0
    assert (piece - 1) * (surviving - privacy) < dimension
    assert piece * (surviving - privacy) >= dimension
    assert sent["coded_masks"] == (n - 1) * sent["summed_masks"]


def test_seconds():
    """Two servers, one client, 80 bits: it sends 80 and a seed; each opens 80."""
    messages = cost.additive_sharing(2, 10, 8, seed_bits=20)
    links = network.Network(bandwidth_bits_per_second=40.0, round_trip_seconds=0.5)
    # To clients and back, and one way among servers; the first one hears two vectors.
    waits = 0.5 + 0.25
    assert cost.seconds(messages, links) == waits + 160 / 40
    assert cost.seconds(messages, links, "server") == waits + 160 / 40
    assert cost.seconds(messages, links, "helper") == waits + 100 / 40
    more = cost.additive_sharing(2, 10, 8, num_clients=7, seed_bits=20)
    assert cost.seconds(more, links) == waits + 8 * 80 / 40
    assert cost.seconds(more, links, "client") == waits + 100 / 40
    unlimited = network.Network(math.inf, 0.5)
    assert cost.seconds(more, unlimited) == waits
    assert cost.seconds((), links) == 0.0


def test_a_round_of_servers_is_half_one_with_clients():
    links = network.Network(math.inf, 2.0)
    assert network.seconds(0, links, exchanges=3) == 3.0
    assert network.seconds(0, links, round_trips=3) == 6.0
    with pytest.raises(ValueError, match="exchanges must be an integer"):
        network.seconds(0, links, exchanges=-1)


def test_wide_area_networks_are_slower():
    messages = cost.bonawitz(graphs.complete(100), 10**5, 24)
    assert cost.seconds(messages, network.WAN) > 50 * cost.seconds(
        messages, network.LAN
    )
    # On 100 bits, all is latency: 4 rounds of 40 ms.
    short = cost.bonawitz(graphs.complete(3), 100, 1)
    assert cost.seconds(short, network.WAN) == pytest.approx(0.16, rel=1e-2)


def test_operations_in_the_complete_graph():
    work = operations.of_masked_sum(graphs.complete(500), 1000)
    assert work.client == operations.Work(500_000, 998, 1000, 0)
    assert work.server == operations.Work(500_000, 0, 0, 500)
    work = operations.of_masked_sum(graphs.complete(500), 1000, num_dropped=50)
    assert work.client == operations.of_masked_sum(graphs.complete(500), 1000).client
    assert work.server == operations.Work((450 + 50 * 450) * 1000, 50 * 450, 0, 500)


@pytest.mark.parametrize(
    ("n", "milliseconds"),
    [(500, (2_018, 62_239, 143_389)), (1000, (4_887, 180_875, 413_767))],
)
def test_server_work_has_the_published_shape(n, milliseconds):
    """Bonawitz et al. 2017's server at 0, 10 and 30% of dropouts."""
    none, few, many = (
        operations.of_masked_sum(
            graphs.complete(n), 10**5, n * percent // 100
        ).server.mask_words
        for percent in (0, 10, 30)
    )
    assert many / few == pytest.approx(milliseconds[2] / milliseconds[1], rel=0.02)
    assert 30 < few / none < 100


def test_operations_of_a_k_regular_graph_are_the_mean():
    """All ways in which 2 of 7 clients on a ring drop out: 42 ordered pairs."""
    graph = graphs.Graph(7, 2, 2)
    near = graphs.neighbours(graph)
    cut = sum(
        len({*map(int, near[one])} - {other}) + len({*map(int, near[other])} - {one})
        for one in range(7)
        for other in range(7)
        if one != other
    )
    found = operations.of_masked_sum(graph, 10, num_dropped=2)
    assert found.server.key_agreements == math.ceil(cut / 42)
    assert found.server.mask_words == 10 * (5 + math.ceil(cut / 42))


@given(graph=any_graph(), data=st.data())
@quick
def test_fewer_neighbours_are_less_work(graph, data):
    num_dropped = data.draw(st.integers(0, graph.num_clients - graph.threshold))
    everybody = graphs.complete(graph.num_clients, graph.threshold)
    ours, theirs = (
        operations.of_masked_sum(g, 10, num_dropped=num_dropped)
        for g in (graph, everybody)
    )
    for role in ("client", "server"):
        pairs = zip(getattr(ours, role), getattr(theirs, role), strict=True)
        assert all(mine <= other for mine, other in pairs)


def test_bad_sizes():
    graph = graphs.complete(10)
    with pytest.raises(ValueError, match=r"dimension .* at least 1, got 0"):
        cost.bonawitz(graph, 0, 32)
    with pytest.raises(ValueError, match=r"word_bits .* at least 1, got -1"):
        cost.bonawitz(graph, 10, -1)
    with pytest.raises(ValueError, match=r"key_bits .* at least 1"):
        cost.bonawitz(graph, 10, 32, key_bits=0)
    with pytest.raises(ValueError, match=r"num_holders .* at least 1"):
        cost.closed_form_bits(0, 10, 32)
    with pytest.raises(ValueError, match=r"num_clients .* at least 1"):
        cost.modulus_bits(0, 16)
    with pytest.raises(ValueError, match=r"input_bits .* at least 1"):
        cost.expansion(100, 10, 0)
    with pytest.raises(ValueError, match=r"num_parties .* at least 2, got 1"):
        cost.additive_sharing(1, 10, 32)
    with pytest.raises(ValueError, match=r"dimension .* at least 1"):
        operations.of_masked_sum(graph, 0)


def test_too_many_dropouts():
    graph = graphs.complete(10)
    for use in (
        operations.of_masked_sum,
        lambda g, d, k: cost.bonawitz(g, d, 32, num_dropped=k),
    ):
        use(graph, 5, 3)
        with pytest.raises(ValueError, match=r"num_dropped 4 leaves 6 .* threshold 7"):
            use(graph, 5, 4)
        with pytest.raises(ValueError, match=r"num_dropped .* at least 0, got -1"):
            use(graph, 5, -1)
        with pytest.raises(ValueError, match="degree must be even"):
            use(graphs.Graph(10, 5, 2), 5, 0)


@pytest.mark.parametrize(("surviving", "privacy"), [(50, 50), (101, 50), (0, 0)])
def test_light_secagg_needs_room(surviving, privacy):
    with pytest.raises(ValueError, match=rf"surviving must .*, got {surviving}"):
        cost.light_secagg(100, surviving, privacy, 10, 32)


def test_bad_networks_and_parties():
    messages = cost.additive_sharing(2, 10, 8)
    with pytest.raises(ValueError, match="bandwidth_bits_per_second must be positive"):
        cost.seconds(messages, network.Network(0.0, 0.1))
    with pytest.raises(ValueError, match="round_trip_seconds must be finite and not"):
        cost.seconds(messages, network.Network(1e9, -0.1))
    with pytest.raises(
        ValueError, match="unknown party 'clint'; did you mean 'client'"
    ):
        cost.seconds(messages, network.LAN, "clint")


def test_uneven_messages_are_refused():
    uneven = (cost.Message("word", "server", "client", 10, 1, 3, 0),)
    with pytest.raises(
        ValueError, match="10 bits do not divide evenly among num_receivers 3"
    ):
        cost.traffic(uneven)
