"""Training on shares as a setup: owners share their data with parties who see none of
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, PyTree

from ppml_lab import base, federated
from ppml_lab.federated import scoring
from ppml_lab.lab.loading import facts_of
from ppml_lab.lab.parts.data import Data, HeartDisease
from ppml_lab.lab.parts.metrics import Accuracy, Metric
from ppml_lab.lab.parts.partitions import Natural, Partition
from ppml_lab.lab.setup import Facts, Layout, Schedule
from ppml_lab.lab.tree.part import part
from ppml_lab.smpc import transcript
from ppml_lab.smpc.computing import approximations, private


class State(NamedTuple):
    """The state of a training on shares between two steps."""

    params: PyTree
    """Parameters in the clear, for the researcher; no party has them before the end."""
    shares: PyTree
    """The shares that the parties hold, see `federated.on_shares`."""
    key: Array
    """Seed words of the training's key."""
    rounds_done: Int[Array, ""]
    """Number of steps so far."""


@part
class OnShares:
    """Logistic regression of two classes by parties who compute on shares.

    A round is one step of gradient descent on everybody's examples. Metrics between
    steps are for the researcher; the last parameters alone are a release. The stated
    cost is what the busiest party sends and receives online in a step. It leaves out
    what owners share before the first step, and what parties exchange before there are
    inputs: `smpc.transcript` has both, see `experiments.private_training`.
    """

    pattern = "on shares"
    """The name of this kind of training in tables."""
    model = "Logistic"
    """The name of its model in tables."""

    data: Data = HeartDisease()
    """The data set, of examples `{"x": features, "y": 0 or 1}`."""
    partition: Partition = Natural()
    """Dealing of rows to owners."""
    kind: Literal["replicated", "additive"] = "replicated"
    """Kind of secret sharing; see `private.protocol`."""
    num_parties: int = 3
    """Number of computing parties."""
    fraction_bits: int = 16
    """Fraction bits of fixed-point numbers."""
    ideal: bool = True
    """If true, only values are computed, with the same roundings, messages and costs;
    False makes every party's shares."""
    learning_rate: float = 1.0
    """Learning rate of a step along the mean gradient."""
    clip_norm: float = 4.0
    """L2 bound to which owners scale their rows down."""
    noise_multiplier: float = 0.0
    """Standard deviation of the honest parties' noise together over the clip norm; see
    `federated.training_on_shares`."""
    metrics: tuple[Metric, ...] = (Accuracy(),)
    """Metrics of all test rows together."""
    schedule: Schedule = Schedule()
    """Number of steps of the run, and times of its evaluations."""
    layout: Layout = Layout()
    """Layout of the run on devices."""

    def training(self, facts: Facts, num_steps: int) -> federated.SharedTraining:
        """See `federated.training_on_shares`."""
        dimension = _width(facts) + 1
        protocol = private.protocol(
            self.kind,
            num_parties=self.num_parties,
            fraction_bits=self.fraction_bits,
            ideal=self.ideal,
        )
        return federated.training_on_shares(
            protocol,
            _gradient,
            lambda parts: parts["all owners"],
            num_steps=num_steps,
            learning_rate=self.learning_rate,
            num_examples=facts.num_examples,
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            dimension=dimension,
        )

    def algorithm(self, facts: Facts) -> base.FederatedAlgorithm:
        """Builds an algorithm whose rounds are steps on the shares in its state."""
        training = self.training(facts, 1)
        shapes = (facts.num_examples, _width(facts) + 1)
        like = {
            "x": np.zeros(shapes, np.float32),
            "y": np.zeros(shapes[:1], np.float32),
        }
        start = jnp.zeros(shapes[1], jnp.float32)

        def begin(key: base.Key, rows: Any) -> Any:
            return training.begin(key, start, {"all owners": rows})

        def init(key: base.Key) -> State:
            shares = jax.tree.map(
                lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
                jax.eval_shape(begin, key, like),
            )
            words = jax.random.key_data(key)
            return State(start, shares, words, jnp.int32(0))

        def one_round(
            key: base.Key, state: State, clients: base.Clients
        ) -> tuple[State, dict[str, Array]]:
            own = jax.random.wrap_key_data(state.key)
            shares = jax.lax.cond(
                state.rounds_done == 0,
                lambda: begin(own, self.shared(clients.examples)),
                lambda: state.shares,
            )
            shares = training.step(own, shares, state.rounds_done)
            params = training.reveal(shares)
            done = state.rounds_done + 1
            return State(params, shares, state.key, done), {}

        return base.FederatedAlgorithm(
            init,
            one_round,
            event=lambda num_rounds: self.training(facts, num_rounds).privacy_event,
            cost=lambda: self._cost(
                training, jax.eval_shape(begin, jax.random.key(0), like)
            ),
            check=_check_labels,
            trust="distributed" if self.noise_multiplier else None,
        )

    def evaluate(
        self, state: Any, clients: base.Clients, rows: PyTree
    ) -> dict[str, Array]:
        """Returns the metrics' scalars, and the mean cross-entropy in nats."""
        judge = scoring.scorer(self._task(), self.predict, self.metrics)
        return judge(state.params, rows)

    def with_noise(self, noise: float) -> OnShares:
        """Returns a copy with this noise multiplier in every step."""
        return dataclasses.replace(self, noise_multiplier=noise)

    def predict(self, params: PyTree, rows: PyTree) -> Array:
        """Returns logits of both classes, `[n, 2]`."""
        logit = self.shared(rows)["x"] @ params
        return jnp.stack([jnp.zeros_like(logit), logit], 1)

    def _cost(self, training: federated.SharedTraining, shares: PyTree) -> base.Cost:
        """Returns what the busiest party sends and receives in a step."""
        sent = transcript.priced(training.step, jax.random.key(0), shares, jnp.int32(1))
        parties, rounds = range(self.num_parties), sent.num_rounds()
        return base.Cost(
            max(-(-sent.sent_bits(party) // 8) for party in parties),
            max(-(-sent.received_bits(party) // 8) for party in parties),
            rounds,
            rounds,
        )

    def shared(self, rows: Any) -> dict[str, Array]:
        """Returns rows as owners share them: with a constant feature, and clipped."""
        x = jnp.reshape(rows["x"], (len(rows["x"]), -1)).astype(jnp.float32)
        x = jnp.concatenate([x, jnp.ones((len(x), 1), jnp.float32)], 1)
        norms = jnp.linalg.norm(x, axis=1, keepdims=True)
        x = x * jnp.minimum(1, self.clip_norm / jnp.maximum(norms, 1e-9))
        return {"x": x, "y": jnp.asarray(rows["y"], jnp.float32)}

    def _task(self) -> base.Task:
        def losses(params: PyTree, rows: PyTree) -> Array:
            logit = self.predict(params, rows)[:, 1]
            return jnp.logaddexp(0.0, logit) - rows["y"] * logit

        return base.Task(
            init=lambda key: jnp.zeros(_width(facts_of(self)) + 1),
            loss=lambda key, params, rows: losses(params, rows),
            evaluate=lambda params, rows: {"loss": losses(params, rows)},
        )


def _check_labels(clients: base.Clients) -> None:
    """Raises ValueError for labels other than 0 and 1, and for rows that are held out.

    Labels are checked because a data part need not state its number of classes.
    """
    if clients.held_out is not None:
        raise ValueError(
            "OnShares trains on all rows, but clients has some held out; give clients "
            "without held_out"
        )
    labels = clients.examples["y"]
    if not bool(jnp.all((labels == 0) | (labels == 1))):
        raise ValueError(
            f'OnShares learns labels "y" of 0 or 1, got others from {jnp.min(labels)} '
            f"to {jnp.max(labels)}; number the two classes 0 and 1"
        )


def _gradient(weights: Any, examples: Any) -> Any:
    """Returns the sum of gradients, each a row times a residual in [-1, 1]."""
    x, y = examples["x"], examples["y"]
    return x.T @ (approximations.piecewise_sigmoid(x @ weights) - y)


def _width(facts: Facts) -> int:
    """Returns the number of features of a row."""
    example = facts.example
    if not isinstance(example, Mapping) or not {"x", "y"} <= set(example):
        raise ValueError('OnShares reads examples {"x": features, "y": 0 or 1}')
    if facts.num_classes not in (None, 2):
        raise ValueError(
            f"OnShares learns two classes, but the data have {facts.num_classes}; use "
            "federated.training_on_shares with a gradient of your own"
        )
    return int(np.prod(example["x"].shape))
