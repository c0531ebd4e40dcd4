"""Messages, rounds and reveals are counted while a protocol is traced, exactly."""

import threading

import jax
import jax.numpy as jnp
import pytest

from ppml_lab import random
from ppml_lab.smpc import field, network, ring, shamir, sharing, transcript

SEED = jnp.array([1, 2], jnp.uint32)


def send(name="word", sender=0, receiver=1, num_bits=32, later=0):
    transcript.record_message(name, sender, receiver, num_bits, later)


def test_nothing_happens_outside_of_a_recording():
    send()
    with transcript.scope("layer"):
        transcript.record_reveal("value", None, (), (0,))
    with transcript.recording() as recorder:
        pass
    assert recorder.messages == recorder.reveals == []
    assert recorder.num_rounds() == recorder.sent_bits() == 0


def test_counts_form_a_tree():
    with transcript.recording() as recorder:
        for layer in ("layer", "layer2"):
            with transcript.scope(layer):
                with transcript.scope("multiply"):
                    send("opened", 0, 1, 10)
                    send("opened", 1, 0, 20)
                send("bias", 1, "client", 3)
    assert recorder.by_path() == {
        "layer": {0: 10, 1: 23},
        "layer/multiply": {0: 10, 1: 20},
        "layer/multiply/opened": {0: 10, 1: 20},
        "layer/bias": {1: 3},
        "layer2": {0: 10, 1: 23},
        "layer2/multiply": {0: 10, 1: 20},
        "layer2/multiply/opened": {0: 10, 1: 20},
        "layer2/bias": {1: 3},
    }
    assert recorder.sent_bits() == recorder.received_bits() == 66
    assert recorder.sent_bits(scope="layer") == 33
    assert recorder.sent_bits(1, "layer") == 23
    assert recorder.received_bits("client", "layer2/bias") == 3
    assert recorder.parties() == (0, 1, "client")
    assert recorder.num_rounds() == 4
    assert recorder.num_rounds("layer/multiply") == 1
    assert [m.round_number for m in recorder.messages] == [0, 0, 1, 2, 2, 3]
    assert type(recorder.sent_bits()) is int
    with pytest.raises(ValueError, match="unknown scope 'layer3'; did you mean"):
        recorder.num_rounds("layer3")


def test_rounds_add_up_unless_parallel():
    with transcript.recording() as recorder:
        with transcript.scope("both", parallel=True):
            for length in (3, 2):
                with transcript.scope("part"):
                    for later in range(length):
                        send(later=later)
        with transcript.scope("after"):
            send()
    assert recorder.num_rounds("both") == 3
    # Both parts are under way in the same rounds.
    assert recorder.num_rounds("both/part") == 3
    assert recorder.num_rounds() == 4
    assert [m.round_number for m in recorder.messages] == [0, 1, 2, 0, 1, 3]


def test_repetitions_multiply():
    with transcript.recording() as recorder:
        with (
            transcript.scope("lanes", repeat=5, parallel=True),
            transcript.scope("steps", repeat=3),
        ):
            send(num_bits=7)
            with transcript.scope("inner"):
                send(num_bits=1)
        send("last")
    assert recorder.sent_bits(scope="lanes") == 5 * 3 * 8
    assert recorder.num_rounds("lanes") == recorder.num_rounds("lanes/steps") == 6
    assert recorder.num_rounds("lanes/steps/inner") == 3
    assert recorder.messages[-1].round_number == 6
    negative = transcript.scope("never", repeat=-1)
    with pytest.raises(ValueError, match="repeat must be an integer"), negative:
        pass


def test_what_waits_for_nothing_goes_at_once():
    def relu(value=None):
        with transcript.scope("relu"):
            if value is not None:
                transcript.wait_for(value)
            with transcript.scope("sign"):
                send(later=0)
                send(later=1)
            with transcript.scope("choose"):
                send()
            return transcript.moment()

    with transcript.recording() as recorder:
        send("before")
        with transcript.scope("flow", parallel=True):
            first, second = relu(), relu()
            both = relu(first)
            with transcript.scope("sum"):
                transcript.wait_for(both, second)
                send()
        with transcript.scope("loop", repeat=10):
            one, other = transcript.at_once(relu, relu)
        assert one == other
    rounds = [m.round_number for m in recorder.messages]
    assert rounds == [0, *[1, 2, 3] * 2, 4, 5, 6, 7, *[8, 9, 10] * 2]
    assert recorder.num_rounds() == 8 + 30
    counted = {"flow": 7, "flow/relu": 6, "flow/relu/sign": 4, "flow/sum": 1}
    counted |= {"loop": 30, "loop/relu/sign": 20, "loop/relu/choose": 10}
    for path, count in counted.items():
        assert recorder.num_rounds(path) == count, path


def test_inputs_that_follow_each_other_go_out_together():
    def share(owner):
        with transcript.scope("share", inputs=True):
            send("inputs", owner, 0)
            send("inputs", owner, 1)

    with transcript.recording() as recorder:
        for owner in ("a", "b", "c"):
            share(owner)
            with transcript.scope("nothing"):
                pass
        with transcript.scope("model"):
            send()
        # What was opened may be in it.
        share("d")
        share("e")
    rounds = {m.sender: m.round_number for m in recorder.messages}
    assert rounds == {"a": 0, "b": 0, "c": 0, 0: 1, "d": 2, "e": 2}
    assert recorder.num_rounds("share") == 2
    assert recorder.num_rounds() == 3


def test_repetitions_that_need_nothing_of_each_other():
    with transcript.recording() as recorder:
        with transcript.scope("loop", repeat=10):
            send(later=0)
            with transcript.scope("inner", repeat=3):
                send("one")
                send("two", later=1)
            transcript.repeat_at_once()
        send()
    assert recorder.num_rounds("loop") == 1 + 6
    assert recorder.num_rounds("loop/inner/two") == 3
    assert recorder.num_rounds() == 8
    assert recorder.sent_bits(scope="loop/inner") == 10 * 3 * 2 * 32


def test_loops_at_once_share_their_rounds():
    with transcript.recording() as recorder, transcript.scope("all", parallel=True):
        for name, repeat, length in (("one", 4, 3), ("two", 5, 2)):
            with transcript.scope(name, repeat=repeat), transcript.scope("last"):
                for later in range(length):
                    send("word" if later == length - 1 else "other", later=later)
    assert recorder.num_rounds() == recorder.num_rounds("all") == 12
    assert recorder.num_rounds("all/one") == 12
    assert recorder.num_rounds("all/two/last") == 10
    assert recorder.num_rounds("all/two/last/word") == 5


def test_recordings_nest_and_threads_are_apart():
    def elsewhere():
        with transcript.recording() as other:
            send("theirs")
        seen.append([m.path for m in other.messages])

    seen: list[list[str]] = []
    with transcript.recording() as outer, transcript.scope("outer"):
        send("first")
        with transcript.recording() as inner, transcript.scope("inner"):
            send("second")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert [m.path for m in outer.messages] == ["outer/first", "outer/inner/second"]
    assert [m.path for m in inner.messages] == ["inner/second"]
    assert seen == [["theirs"]]


def test_an_error_inside_closes_its_scopes():
    with transcript.recording() as recorder:
        with pytest.raises(KeyError), transcript.scope("broken"):
            raise KeyError
        send()
    assert [m.path for m in recorder.messages] == ["word"]


@jax.jit
def protocol(values):
    shared = sharing.share(SEED, values, sharing.additive(3))
    with transcript.scope("layer"):
        return sharing.reveal(sharing.add(shared, shared), name="sum")


def test_a_compiled_program_is_recorded_every_time():
    values = jnp.arange(5, dtype=jnp.uint32)
    assert protocol(values).tolist() == (2 * values).tolist()
    for _ in range(2):
        with transcript.recording() as recorder:
            assert protocol(values).tolist() == (2 * values).tolist()
        assert recorder.sent_bits(0) == 2 * 5 * 32
    for _ in range(2):
        assert transcript.priced(protocol, values).sent_bits(0) == 2 * 5 * 32


def test_a_compiled_program_is_recorded_whenever_it_is_called():
    @jax.jit
    def twice(values):
        return protocol(protocol(values))

    values = jnp.arange(5, dtype=jnp.uint32)
    recorder = transcript.priced(lambda v: protocol(twice(twice(v))), values)
    assert recorder.sent_bits(0) == 5 * 2 * 5 * 32
    assert recorder.num_rounds() == 5
    with transcript.recording() as recorder:
        for _ in range(2):
            assert protocol(values).tolist() == (2 * values).tolist()
    assert recorder.sent_bits(0) == 2 * 2 * 5 * 32


def test_pricing_runs_nothing_and_is_not_recorded_outside():
    with transcript.recording() as recorder, transcript.scope("outer"):
        huge = jax.ShapeDtypeStruct((10**12,), jnp.uint32)
        price = transcript.priced(protocol, huge)
    assert price.sent_bits() == 3 * 2 * 32 * 10**12
    assert [r.path for r in price.reveals] == ["layer/sum"]
    assert recorder.messages == recorder.reveals == []


def test_a_lane_of_vmap_is_counted_once():
    values = jnp.ones((4, 5), jnp.uint32)
    assert transcript.priced(jax.vmap(protocol), values).sent_bits(0) == 2 * 5 * 32


ADDITIVE, REPLICATED = sharing.additive(4), sharing.replicated(ring.Z64)
SHAMIR = shamir.shamir(3, 5, field.F61)


@pytest.mark.parametrize(
    ("scheme", "receivers", "sent"),
    [
        (ADDITIVE, None, [3, 3, 3, 3]),
        (ADDITIVE, (1,), [1, 0, 1, 1]),
        (ADDITIVE, ("client",), [1, 1, 1, 1]),
        (REPLICATED, None, [1, 1, 1]),
        (REPLICATED, (0,), [0, 0, 1]),
        (REPLICATED, ("client", 2), [1, 2, 1]),
        (SHAMIR, None, [4, 4, 4, 0, 0]),
        (SHAMIR, ("server",), [1, 1, 1, 0, 0]),
    ],
)
def test_what_a_reveal_takes(scheme, receivers, sent):
    def reveal(values):
        shared = sharing.share(SEED, values, scheme)
        return sharing.reveal(shared, name="logits", receivers=receivers)

    values = ring.zeros(scheme.ring, (2, 3))
    recorder = transcript.priced(reveal, values)
    bits = [recorder.sent_bits(p) for p in range(scheme.num_parties)]
    assert bits == [6 * scheme.ring.bits * count for count in sent]
    assert recorder.num_rounds("logits") == recorder.num_rounds() == 1
    learners = receivers or tuple(range(scheme.num_parties))
    assert recorder.reveals == [transcript.Reveal("logits", scheme, (2, 3), learners)]
    own = set(recorder.parties()) - set(range(scheme.num_parties))
    assert own == {r for r in learners if isinstance(r, str)}


@pytest.mark.parametrize("receivers", [(4,), (-1,), (1, 1), (), ("a", "a")])
def test_bad_receivers(receivers):
    shared = sharing.share(random.child(SEED, 0), jnp.zeros(2, jnp.uint32), ADDITIVE)
    with pytest.raises(ValueError, match="receivers must "):
        sharing.reveal(shared, name="value", receivers=receivers)


def test_seconds_are_half_a_round_trip_a_round_and_the_busiest_link():
    def open_twice(values):
        shared = sharing.share(SEED, values, ADDITIVE)
        sharing.reveal(shared, name="to all")
        return sharing.reveal(shared, name="to one", receivers=["client"])

    recorder = transcript.priced(open_twice, jnp.zeros(100, jnp.uint32))
    links = network.Network(bandwidth_bits_per_second=3200.0, round_trip_seconds=0.5)
    # The client hears four parties; each of these sends three times and once.
    assert recorder.seconds(links, "to one") == 0.25 + 4
    assert recorder.seconds(links) == 2 * 0.25 + 4
    assert transcript.priced(lambda: 0).seconds(links) == 0
