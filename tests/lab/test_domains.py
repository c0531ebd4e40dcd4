"""Learning that is no classification of images, through a whole sweep each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import base, federated, lab
from ppml_lab.lab import parts

SCHEDULE = lab.Schedule(num_rounds=12, eval_every=6)


def ends(
    setup: Any, folder: Path, *axes: Any, delta: float = 1e-2
) -> list[lab.Outcome]:
    sweep = lab.product(*axes, lab.seeds(2))
    return lab.run_sweep(lab.points(sweep, setup, delta=delta), folder)


# A survival model: one example per client is a whole hospital.


@lab.part
class Hospitals:
    """Made hospitals of 30 patients, whose risk grows with their first feature."""

    def load(self) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(15, 30, 3)).astype(np.float32)
        time = rng.exponential(np.exp(-1.5 * x[..., 0])).astype(np.float32)
        event = (rng.random((15, 30)) < 0.8).astype(np.float32)
        rows = {"x": x, "time": time, "event": event}
        train, test = ({k: v[part] for k, v in rows.items()} for part in
                       (slice(12), slice(12, 15)))  # fmt: skip
        return train, np.arange(12), test


@lab.part
class Cox:
    """Proportional hazards, by the partial likelihood within a hospital."""

    def build(self, facts: lab.Facts) -> base.Task:
        width = facts.example["x"].shape[-1]

        def losses(w: Any, rows: Any) -> Any:
            risk = rows["x"] @ w
            at_risk = rows["time"][:, None, :] >= rows["time"][:, :, None]
            total = jax.nn.logsumexp(
                jnp.where(at_risk, risk[:, None, :], -jnp.inf), axis=-1
            )
            return -jnp.mean(rows["event"] * (risk - total), axis=1)

        return base.Task(
            lambda key: jnp.zeros(width),
            lambda key, w, rows: losses(w, rows),
            lambda w, rows: {"loss": losses(w, rows)},
        )

    def predict(self, facts: lab.Facts, params: Any, rows: Any) -> Any:
        return rows["x"] @ params


@lab.part
class InHospitals:
    """The concordance within hospitals, averaged."""

    def __call__(self, scores: Any, labels: Any, weights: Any) -> dict[str, Any]:
        judge = parts.Concordance()

        def one(score: Any, time: Any, event: Any) -> Any:
            labels = {"time": time, "event": event}
            return judge(score, labels, jnp.ones_like(score))["concordance"]

        each = jax.vmap(one)(scores, labels["time"], labels["event"])
        return {"concordance": jnp.mean(each)}


@pytest.mark.exhaustive  # as a task of the lab: test_tasks
def test_a_survival_model_on_hospitals(tmp_path: Path) -> None:
    setup = parts.Federated(
        data=Hospitals(),
        partition=parts.Natural(),
        model=Cox(),
        trainer=parts.FedAvg(parts.Sgd(1.0), batch_size=1),
        sampler=parts.Everyone(),
        mechanism=parts.Gaussian(1.0),
        metrics=(InHospitals(),),
        schedule=SCHEDULE,
    )
    found = ends(setup, tmp_path, lab.axis("target_epsilon", [8.0, float("inf")]))
    rows = Hospitals().load()[2]
    best = InHospitals()(rows["x"][..., 0], rows, None)["concordance"]
    assert abs(found[-1].last["concordance"] - best) < 0.03
    assert all(0.5 < one.last["concordance"] <= 1 for one in found)
    assert found[-1].last["loss"] < found[0].last["loss"]


# A recommender: who a user is never leaves the client.


@lab.part
class Ratings:
    """Made ratings of 30 items by 20 users, of rank 2."""

    num_items: int = 30

    def load(self) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(0)
        of_users, of_items = rng.normal(size=(20, 2)), rng.normal(size=(30, 2))
        users, items = (grid.ravel() for grid in np.mgrid[:20, :30])
        stars = np.einsum("nd,nd->n", of_users[users], of_items[items])
        rows = {
            "user": users.astype(np.int32),
            "item": items.astype(np.int32),
            "y": stars.astype(np.float32),
        }
        held = rng.random(len(users)) < 0.2
        train, test = ({k: v[w] for k, v in rows.items()} for w in (~held, held))
        return train, train["user"], test


def stars(items: Any, vector: Any, rows: Any) -> Any:
    return jnp.sum(items[rows["item"]] * vector, axis=-1)


@lab.part
class Factors:
    """Item vectors, which all share, and user vectors, which each keeps."""

    rank: int = 2

    def build(self, facts: lab.Facts) -> base.Task:
        def init(key: Any) -> Any:
            return 0.5 * jax.random.normal(key, (30, self.rank))

        def errors(items: Any, rows: Any) -> Any:
            return (stars(items, jnp.zeros(self.rank), rows) - rows["y"]) ** 2

        return base.Task(
            init,
            lambda key, items, rows: errors(items, rows),
            lambda items, rows: {"blind": errors(items, rows)},
        )

    def predict(self, facts: lab.Facts, params: Any, rows: Any) -> Any:
        return jnp.zeros(len(rows["y"]))


@lab.part
class Alternating:
    """Each client fits its own vector, then says how the items should change."""

    rate: lab.Traced = 0.1
    steps: int = 10

    def build(
        self, task: base.Task, facts: lab.Facts, server: optax.GradientTransformation
    ) -> tuple[base.ClientTrainer, base.Server]:
        inner = federated.local_sgd(
            task, optax.sgd(0.1), facts.max_client_size, num_steps=self.steps
        )

        def step(key: Any, items: Any, state: Any, client: Any, number: Any) -> Any:
            rows = jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, client.start, 16),
                client.examples,
            )
            there = jnp.arange(16) < client.size

            def loss(items: Any, vector: Any) -> Any:
                errors = (stars(items, vector, rows) - rows["y"]) ** 2
                return jnp.sum(jnp.where(there, errors, 0)) / jnp.sum(
                    there.astype(errors.dtype)
                )

            here, vector, _ = state
            value, (of_items, of_vector) = jax.value_and_grad(loss, (0, 1))(
                here, vector
            )
            return here - self.rate * of_items, vector - self.rate * of_vector, value

        def finish(items: Any, state: Any) -> Any:
            here, vector, value = state
            return here - items, vector, {"train_loss": value}

        trainer = inner._replace(
            keep=lambda params: jnp.full(2, 0.5),
            init=lambda key, items, kept, number: (items, kept, jnp.float32(0)),
            step=step,
            finish=finish,
            still_leaves=tuple,
        )
        return trainer, federated.fedopt(server)


@lab.part
class Recommender(parts.Federated):
    """Judged with everybody's own vector."""

    def evaluate(self, state: Any, clients: Any, rows: Any) -> dict[str, Any]:
        own = state.kept[rows["user"]]
        errors = (stars(state.params, own, rows) - rows["y"]) ** 2
        return {"mse": jnp.mean(errors), "loss": jnp.mean(errors)}


def test_a_recommender_with_private_user_vectors(tmp_path: Path) -> None:
    setup = Recommender(
        data=Ratings(),
        partition=parts.Natural(),
        model=Factors(),
        trainer=Alternating(),
        server=parts.Sgd(4.0),
        sampler=parts.Everyone(),
        schedule=lab.Schedule(num_rounds=40, eval_every=20),
    )
    found = ends(setup, tmp_path, lab.axis("trainer.rate", [0.1, 0.3]))
    variance = float(np.var(Ratings().load()[2]["y"]))
    assert found[2].last["mse"] < variance / 2
    assert len({one.last["params_digest"] for one in found}) == 4


# A next-character model: labels [n, L].


@lab.part
class Verses:
    """Lines of a made language, in which a letter says what comes next."""

    num_classes = 5

    def load(self) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(0)
        first = rng.integers(0, 5, size=(120, 1))
        text = (first + np.cumsum(rng.integers(1, 3, size=(120, 9)) == 1, axis=1)) % 5
        rows = {"x": text[:, :-1].astype(np.int32), "y": text[:, 1:].astype(np.int32)}
        train, test = ({k: v[part] for k, v in rows.items()} for part in
                       (slice(100), slice(100, 120)))  # fmt: skip
        return train, np.arange(100) // 10, test


@lab.part
class Bigrams:
    """A letter's logits are a row of a table."""

    def build(self, facts: lab.Facts) -> base.Task:
        def losses(table: Any, rows: Any) -> Any:
            each = optax.softmax_cross_entropy_with_integer_labels(
                table[rows["x"]], rows["y"]
            )
            return jnp.mean(each, axis=1)

        return base.Task(
            lambda key: jnp.zeros((5, 5)),
            lambda key, table, rows: losses(table, rows),
            lambda table, rows: {"loss": losses(table, rows)},
        )

    def predict(self, facts: lab.Facts, params: Any, rows: Any) -> Any:
        return params[rows["x"]]


@lab.part
class Letters:
    """The share of letters that are foreseen."""

    def __call__(self, scores: Any, labels: Any, weights: Any) -> dict[str, Any]:
        return {"accuracy": jnp.mean(jnp.argmax(scores, -1) == labels)}


@pytest.mark.exhaustive  # as a task of the lab: test_tasks
def test_a_next_character_model(tmp_path: Path) -> None:
    setup = parts.Federated(
        data=Verses(),
        partition=parts.Natural(),
        model=Bigrams(),
        trainer=parts.FedAvg(parts.Sgd(2.0), batch_size=5),
        sampler=parts.Poisson(5),
        metrics=(Letters(),),
        schedule=lab.Schedule(num_rounds=12, eval_every=6, validation=0.2, keep="best"),
    )
    found = ends(setup, tmp_path, lab.axis("trainer.optimizer.learning_rate", [2.0]))
    assert all(one.last["accuracy"] > 0.4 for one in found)
    assert all(one.last["loss"] < np.log(5) for one in found)
    assert all("validation_accuracy" in one.last for one in found)


@pytest.mark.parametrize("labels", [np.full(3, 5), np.array([-1, 0, 1])])
def test_labels_that_are_no_classes_are_refused(labels: Any) -> None:
    @lab.part
    class Wrong:
        num_classes = 5

        def load(self) -> Any:
            rows = {"x": np.zeros((3, 2), np.float32), "y": labels}
            return rows, np.arange(3), rows

    setup = parts.Federated(data=Wrong(), partition=parts.Natural())
    with pytest.raises(ValueError, match=r"Wrong: test labels must lie in \[0, num_"):
        lab.load_data(setup)
