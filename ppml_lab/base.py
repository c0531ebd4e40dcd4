"""The shared types of the lab: how data, learning, privacy and secure sums meet.

Builders take hyperparameters and return these NamedTuples of pure functions. What a
function does is said once, below its field; the builders' docstrings say only what is
particular to them. Arguments are positional, in the order and of the names given there.

Every function raises ValueError, naming the argument, for one that is not what it is
called (`guards`): no key, tree or count. What else one raises is said, and is the same.
Updates and means are trees of the model's trainable leaves, totals such trees of arrays
or `pairs.Pair`s; bounds, norms and sensitivities are scalars, in units of an update.
What is "on the host" takes numbers, not tracers. Rounds and steps count from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array
from jaxtyping import Bool, Float, Int, PyTree

from ppml_lab import shown

Key = Array
"""A typed jax key (`jax.random.key`)."""
TaskInit = Callable[[Key], PyTree]
TaskLoss = Callable[[Key, PyTree, PyTree], Float[Array, " n"]]

RELATIONS = ("add_or_remove_one", "replace_one", "zero_out")
"""Neighbouring data sets: one more or less, another in its place, its place empty."""


class Clients(NamedTuple):
    """A federated data set on device, without padding."""

    examples: PyTree[Array]
    """Leaves `[total, ...]`, rows grouped by client; or see `data.storage`."""
    offsets: Int[Array, " clients_plus_1"]
    """Client `i` owns `examples[offsets[i]:offsets[i + 1]]`."""
    held_out: Int[Array, " clients"] | None = None
    """So many last rows of each are never trained: its own model is judged on them."""

    def __repr__(self) -> str:
        return shown.clients(*self)


class ClientView(NamedTuple):
    """One client in a compiled round: everybody's examples and where its own lie."""

    examples: PyTree[Array]
    """Leaves `[total, ...]`, those of `Clients`."""
    start: Int[Array, ""]
    """First row that this client owns."""
    size: Int[Array, ""]
    """Number of rows that it trains on."""
    client: Int[Array, ""]
    """Who it is: its place among all clients."""


class Cohort(NamedTuple):
    """Who takes part in one round; of a shape that never changes."""

    indices: Int[Array, " cohort"]
    """Clients, or examples where examples are sampled."""
    weights: Float[Array, " cohort"]
    """1 for a participant, 0 for padding."""


class Cost(NamedTuple):
    """What one client, or one computing party, sends and receives in one round."""

    uplink_bytes: int
    """Sent, by one that takes part to the end."""
    downlink_bytes: int
    """Received."""
    rounds: int = 1
    """Rounds of messages that wait for each other; 1 for a message and its answer."""
    exchanges: int = 0
    """Those among them between servers, or parties, who wait for no answer."""


class PrivacyEvent(NamedTuple):
    """What an accountant needs to state epsilon."""

    event: Any
    """A `dp_accounting.DpEvent`, whose noise multipliers are standard deviations over
    the L2 sensitivity under `neighboring_relation`: over what one neighbour changes."""
    neighboring_relation: str
    """One of `RELATIONS`."""
    privacy_unit: str | None
    """"client" or "example", or None if nothing is promised."""
    population: int | None = None
    """How many there are, if known: accounting warns of a delta above one over it."""
    beside: tuple[PrivacyEvent, ...] = ()
    """What the same run promises to other units."""


class Task(NamedTuple):
    """What is learnt; `models.classification` makes one of any `(init, apply)` pair."""

    init: TaskInit
    """`(key)`: fresh model parameters, of any shapes."""
    loss: TaskLoss
    """`(key, params, examples)`: the loss of each, so that callers can mask, weigh and
    clip; `key` is for dropout and the like. Raises for rows that it cannot read."""
    evaluate: Callable[[PyTree, PyTree], dict[str, Float[Array, " n"]]]
    """`(params, examples)`: metrics of each, to be averaged; raises as `loss` does."""
    roles: Callable[[PyTree], PyTree] | None = None
    """`(params)`: a leaf for each, "trainable", "constant" (never clipped, noised, sent
    or summed) or "kept" (by each client for itself); None if all are trainable."""
    observe: Callable[[PyTree, PyTree], PyTree] | None = None
    """`(params, examples)`: kept leaves that a batch sets, and None for all others."""
    weigh: Callable[[PyTree], Float[Array, " n"]] | None = None
    """`(examples)`: how much each counts in means of metrics, from 0; None if alike."""


class ClientTrainer(NamedTuple):
    """McMahan's ClientUpdate, cut into steps so that lanes of clients never idle."""

    num_steps: Callable[[Int[Array, ""]], Int[Array, ""]]
    """`(size)`: steps of a client with so many examples; of none 0, and no change."""
    keep: Callable[[PyTree], PyTree]
    """`(params)`: what a client keeps for itself before its first round, or `()`."""
    init: Callable[[Key, PyTree, PyTree, Int[Array, ""]], PyTree]
    """`(key, sent, kept, round_number)`: a client's state; it kept `kept` last time."""
    step: Callable[[Key, PyTree, PyTree, ClientView, Int[Array, ""]], PyTree]
    """`(key, sent, state, client, step_number)`: the state after a local step. Of a
    round's steps all have one `key`: fold in `step_number`."""
    finish: Callable[[PyTree, PyTree], tuple[PyTree, PyTree, dict[str, Array]]]
    """`(sent, state)`: the update, what the client keeps to its next round, scalars."""
    model: Callable[[PyTree, PyTree], PyTree]
    """`(sent, kept)`: the parameters by which the client predicts."""
    event: Callable[[], PrivacyEvent]
    """`()`: what one participation costs the client's own examples."""
    max_client_size: int | None = None
    """The most examples of a client that it has room for; None for any number."""
    contributions: Any = None
    """A `federated.Contributions` of which updates are sums; None if of themselves."""
    still_leaves: Callable[[], tuple[str, ...]] = tuple
    """`()`: the trainable leaves that its optimizer never changes while it changes
    others: no client contributes to their sum, which noise would move all the same."""
    num_sent: int | None = None
    """The most coordinates of an update that are not zero; None for any number."""


class Server(NamedTuple):
    """What a server makes of the mean of its clients' updates."""

    init: Callable[[PyTree], PyTree]
    """`(params)`: what it remembers before round 0, of the trainable leaves."""
    send: Callable[[PyTree, PyTree], PyTree]
    """`(params, memory)`: what every participant receives, with the whole model."""
    step: Callable[[PyTree, PyTree, PyTree, Any], tuple[PyTree, PyTree]]
    """`(params, memory, mean, share)`: the next trainable leaves and memory. The mean
    counts a `share` in (0, 1] of the population: their product is a mean over all."""
    weighting: str | None
    """The only weighting under which `step` is right; None if any is."""


class Participation(NamedTuple):
    """How often, and how far apart, one and the same takes part in a run."""

    unit: str
    """"member" where each member of the population has such a pattern of its own."""
    min_separation: int
    """Rounds from one participation to the next, at least; 1 for adjacent ones."""
    max_participations: int
    """The most rounds that anyone takes part in."""
    sampling_prob: float | None
    """Each one's chance in every round, independent of others; None where it is not."""


class ClientSampler(NamedTuple):
    """Sampling and its privacy amplification, from one builder."""

    init: Callable[[Key], PyTree]
    """`(key)`: what is carried over rounds, such as an order; `()` for nothing."""
    sample: Callable[[Key, PyTree], tuple[Cohort, PyTree]]
    """`(key, state)`: one round's participants, and the next state."""
    amplify: Callable[[Any], Any]
    """`(event)`: the `DpEvent` of a round with participants drawn so; on the host."""
    participation: Callable[[int], Participation]
    """`(num_rounds)`: a run's pattern, for noise that is not fresh; on the host."""
    expected_cohort: Any
    """Members; the public denominator of averages, never the realised size."""
    max_cohort: int
    """Length of the cohort's arrays; no round has more participants."""
    population: int
    """How many clients (or examples) there are to sample from."""
    neighboring_relation: str
    """The relation under which `amplify` holds."""


class Sums(NamedTuple):
    """How messages are added up: what the noise of the clients themselves needs."""

    dimension: int
    """Coordinates of a message."""
    scale: float
    """Integer steps per unit."""
    bits: int
    """Of the modulus."""
    least_reports: int
    """Fewer never make a sum."""


class Grid(NamedTuple):
    """Messages are integers already."""

    scale: float
    """Integer steps per unit."""
    bits: int
    """Of the modulus that they are meant for."""


class PrivacyMechanism(NamedTuple):
    """A mechanism and its accounting, of one builder: they cannot drift apart."""

    init: Callable[[Key, PyTree], PyTree]
    """`(key, like)`: what is carried over rounds, for updates of these shapes; of
    `key`, its seed words alone are kept."""
    clip: Callable[[Key, PyTree, PyTree], PyTree]
    """`(key, state, update)`: what leaves one client: its update, bounded, and whatever
    else `privatize` wants summed; under local DP also with the client's own noise."""
    clip_examples: Callable[[PyTree, Any, Array], PyTree]
    """`(state, gradients, weights)`: the sum of a batch's clipped gradients, from a
    `dp.PerExample`, without those of weight 0; raises if it protects no examples."""
    message_bound: Callable[[PyTree], Any]
    """`(state)`: the largest absolute coordinate that leaves a client, its own noise
    included; inf where there is none."""
    norm_bound: Callable[[PyTree], Any]
    """`(state)`: the L2 norm that what is clipped has at most, before any noise."""
    privatize: Callable[[Key, PyTree, PyTree, Any], tuple[PyTree, PyTree]]
    """`(key, state, total, sensitivity)`: the noisy sum of updates, in plain arrays,
    and the next state, from a **sum** of what was clipped, of this L2 sensitivity."""
    noise_multiplier: Callable[[PyTree], Any] | None
    """`(state)`: the next release's standard deviation over the sensitivity to one
    contribution more or less; None unless it is an independent Gaussian on the sum."""
    report: Callable[[PyTree], dict[str, Array]]
    """`(state)`: scalars for a round's info, made of what was released."""
    event: Callable[..., PrivacyEvent]
    """`(sampler, num_releases, sums=None)`: the cost of a run's first so many releases,
    each of participants whom `sampler` draws; on the host. `sums` is for noise of the
    clients. Raises for traced hyperparameters, and cohorts that it does not account."""
    privacy_unit: str | None
    """Whose contribution is bounded, "client" or "example"; None for no promise."""
    trust: str | None
    """Who has to be honest: "central" (who sums and adds the noise), "local" (nobody
    else), "shuffler", "distributed" (enough of the clients); None without promise."""
    expected_contributions: Any = None
    """Contributions per round that the mechanism counts on; None if it does not."""
    grid: Grid | None = None
    """Of messages that are integers already; None for real ones."""
    check_sampler: Callable[[ClientSampler], None] | None = None
    """`(sampler)`: raises, on the host, unless `event` holds; None if for any."""


class SecureAggregator(NamedTuple):
    """`finish(absorb(empty, [encode(x_i)])) ~= sum_i x_i`, or estimates the mean."""

    begin: Callable[[Key, Bool[Array, " cohort"], Bool[Array, " cohort"], Any], PyTree]
    """`(key, invited, reporting, max_abs)`: the session, which a round's participants
    agree on, by place in the cohort; of the `invited`, the simulation knows who will be
    `reporting`. `max_abs` is a mechanism's `message_bound`. Raises as `check` does."""
    encode: Callable[[Key, PyTree, Int[Array, ""], PyTree], PyTree]
    """`(key, session, place, update)`: a client's message; `key` is its own."""
    empty: Callable[[PyTree], PyTree]
    """`(like_message)`: the total of nobody's messages, which have these shapes."""
    absorb: Callable[[PyTree, PyTree, Int[Array, " n"], Bool[Array, " n"]], PyTree]
    """`(total, messages, places, present)`: the total with messages, stacked along a
    leading axis, of clients at these places, of whom only those `present` count."""
    merge: Callable[[PyTree], PyTree]
    """`(totals)`: one total of several clients', stacked along a leading axis."""
    finish: Callable[[PyTree, PyTree], tuple[PyTree, Float[Array, ""], Bool[Array, ""]]]
    """`(session, total)`: the sum (or estimate) of all reports, all that a secure sum
    tells; their number; whether the protocol completed, without which both are 0."""
    wrap: Callable[[PyTree, PyTree], PyTree]
    """`(session, value)`: a finished sum, perhaps noisy, modulo what sums wrap at."""
    sensitivity: Callable[[PyTree, Any, int], Any]
    """`(session, norm, dimension)`: the L2 norm of a client's part in the exact sum, of
    an update with this one at most."""
    cost: Callable[[int], Cost]
    """`(dimension)`: bytes of one client for an update with so many coordinates."""
    can_abort: bool
    """Whether too few reports leave a round without a sum."""
    ends_in: str = "sum"
    """"sum", which averaging divides by a public number, or "estimate" of the mean."""
    needs: str = "sum"
    """Of the messages: their "sum", or each "individual" one."""
    change: Callable[[PyTree, Any, int], Any] | None = None
    """`(session, norm, dimension)`: by how much, in L2 norm, a client's part in the
    exact sum moves when its update moves by `norm`; None where nobody knows."""
    shows: str = "individual"
    """What the servers see: the messages' "sum" alone, or each "individual" one."""
    name: str = "this aggregator"
    """What errors call it."""
    check: Callable[[int, Any], None] = lambda num_places, max_abs: None
    """`(num_places, max_abs)`: raises, on the host, unless `begin` can take these."""
    sums: Callable[[int], Sums] | None = None
    """`(dimension)`: how messages are added up; None where they are no integers."""
    abort_share: Callable[[Any, Any], float] | None = None
    """`(num_invited, num_reports)`: of rounds with so many, arrays `[rounds]`, the
    share without a sum; on the host. None where that is not known or there are none."""


class FederatedAlgorithm(NamedTuple):
    """A training algorithm as a state machine; `federated.simulate` runs it."""

    init: Callable[[Key], Any]
    """`(key)`: the server's state before round 0; `state.params` is the model."""
    round: Callable[[Key, Any, Clients], tuple[Any, dict[str, Array]]]
    """`(key, state, clients)`: the next state, and scalars, which are not private."""
    event: Callable[[int], PrivacyEvent]
    """`(num_rounds)`: the cost of a whole run; on the host. Raises as a mechanism's."""
    cost: Callable[[], Cost | None]
    """`()`: of a round; None where nothing is sent."""
    check: Callable[[Clients], None]
    """`(clients)`: raises, on the host, unless `round` can train all of these."""
    expected_cohort: Any = None
    """Clients that a round is expected to begin with; None where that is not known."""
    dropout_prob: Any = None
    """Each one's chance not to report; None likewise."""
    trust: str | None = None
    """On whom `event` relies: a mechanism's `trust`; None where nothing is promised."""
