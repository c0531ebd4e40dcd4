"""Tasks beyond classification through sweeps, private for clients or examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from sklearn import datasets

from ppml_lab import lab
from ppml_lab.lab import parts


@lab.part
class Diabetes:
    """How ill 442 patients are a year later; scikit-learn's copy."""

    def load(self) -> tuple[Any, Any, Any]:
        found: Any = datasets.load_diabetes()
        # Columns have norm one; the disease's scale goes from 25 to 346.
        x = (found.data * 442**0.5).astype(np.float32)
        y = ((found.target - 150) / 100).astype(np.float32)
        train, test = ({"x": x[at], "y": y[at]} for at in (slice(342), slice(342, 442)))
        return train, None, test


@lab.part
class Patients:
    """Made patients, of whom some are censored; all of the last clinic's are."""

    def load(self) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(400, 3)).astype(np.float32)
        time = rng.exponential(np.exp(-x @ [1.5, -1.0, 0.0]))
        until = rng.uniform(0.5, 5.0, size=400)
        clinics = np.arange(300) // 15
        event = time <= until
        event[:300][clinics == 19] = False
        time = np.maximum(np.where(event, time, np.minimum(time, until)), 1e-3)
        y = {"time": time.astype(np.float32), "event": event.astype(np.int32)}
        train = {"x": x[:300], "y": {name: leaf[:300] for name, leaf in y.items()}}
        test = {"x": x[300:], "y": {name: leaf[300:] for name, leaf in y.items()}}
        return train, clinics, test


@lab.part
class Sentences:
    """Made sequences in which a token follows from the one before, and padding."""

    num_classes = 5
    largest: int = 4
    """A label."""

    def load(self) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(0)
        x = rng.integers(0, 5, size=(200, 6)).astype(np.int32)
        y = (2 * x + 1) % 5
        y[3, 0] = self.largest
        weights = np.arange(6) < rng.integers(1, 7, size=(200, 1))
        rows = {"x": x, "y": y, "weights": weights.astype(np.float32)}
        train, test = (
            {name: leaf[at] for name, leaf in rows.items()}
            for at in (slice(160), slice(160, 200))
        )
        return train, None, test


@lab.part
class Ratings:
    """Made ratings from 1 to 5 by 20 users of 12 items each."""

    def load(self) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(0)
        taste = np.sign(rng.normal(size=(20, 1))) * np.sign(rng.normal(size=(1, 15)))
        users = np.repeat(np.arange(20), 12)
        items = np.concatenate([rng.permutation(15)[:12] for _ in range(20)])
        rows = {
            "item": items.astype(np.int32),
            "rating": (3 + 1.5 * taste[users, items]).astype(np.float32),
        }
        return rows, users, {name: leaf[:10] for name, leaf in rows.items()}


class Bigrams(nn.Module):
    """Logits of the next token by the last one alone."""

    num_tokens: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(self.num_tokens)(nn.Embed(self.num_tokens, 8)(x))


def bigrams(num_tokens: int) -> nn.Module:
    return Bigrams(num_tokens)


TASKS: dict[str, dict[str, Any]] = {
    "regression": {
        "data": Diabetes(),
        "partition": parts.Iid(19),
        "model": parts.Regression(),
        "metrics": (parts.MeanSquaredError(), parts.R2()),
    },
    "sequence": {
        "data": Sentences(),
        "partition": parts.Iid(20),
        "model": parts.FlaxSequence(bigrams),
        "metrics": (),
    },
    "survival": {
        "data": Patients(),
        "partition": parts.Natural(),
        "model": parts.LogisticHazard((0.25, 0.5, 1.0, 2.0, 4.0)),
        "metrics": (parts.Concordance(),),
    },
    "factorisation": {
        "data": Ratings(),
        "partition": parts.Natural(),
        "model": parts.Factorisation(15, 2, mean=3.0, scale=0.5),
        "metrics": (),
        "held_out": 0.25,
    },
}
TASKS["lstm"] = TASKS["sequence"] | {"model": parts.CharLstm(width=8, num_layers=1)}
TASKS["transformer"] = TASKS["sequence"] | {"model": parts.Transformer(8, 1, 2, 16)}
RATES = {
    "regression": 0.1,
    "sequence": 1.0,
    "lstm": 3.0,
    "transformer": 0.3,
    "survival": 0.3,
    "factorisation": 0.1,
}
LEARNT: dict[str, dict[str, tuple[float, float]]] = {
    "regression": {"r2": (0.3, 0.6), "mse": (0.2, 0.45), "mae": (0.3, 0.6)},
    "sequence": {"accuracy": (0.8, 1.0), "loss": (0.0, 1.0)},
    "lstm": {"accuracy": (0.5, 1.0), "loss": (0.0, 1.4)},
    "transformer": {"accuracy": (0.5, 1.0), "loss": (0.0, 1.4)},
    "survival": {"concordance": (0.7, 0.95), "loss": (0.5, 1.6)},
    "factorisation": {"client_mse": (0.0, 1.5), "client_mae": (0.0, 1.2)},
}
"""What a run without noise reaches: constants have an r2 of 0, an accuracy of 1/4, a
concordance of 1/2, an mse of 1.5^2."""
LAYOUT = lab.Layout(num_lanes=1, num_devices=1)


def federated(task: str) -> parts.Federated:
    return parts.Federated(
        trainer=parts.FedAvg(parts.Sgd(RATES[task]), batch_size=8, local_epochs=2),
        sampler=parts.Everyone(),
        mechanism=parts.Gaussian(10.0),
        schedule=lab.Schedule(num_rounds=15, eval_every=15),
        layout=LAYOUT,
        **TASKS[task],
    )


def pooled(task: str) -> parts.Central:
    return parts.Central(
        optimizer=parts.Sgd(RATES[task]),
        batch=parts.Poisson(60),
        steps_per_round=100,
        mechanism=parts.Gaussian(2.0),
        schedule=lab.Schedule(num_rounds=1, eval_every=1),
        layout=LAYOUT,
        **TASKS[task],
    )


@pytest.mark.parametrize(
    ("task", "setup", "unit"),
    [
        pytest.param(
            *case,
            marks=pytest.mark.exhaustive if case[2] != quick else [],
            id=f"{case[0]}-{case[2]}",
        )
        # The engine knows nothing of tasks: the others differ from these by losses,
        # which are in models/, and by patterns, which are in test_setups.
        for task, quick in (
            ("regression", ""),
            ("sequence", "example"),
            ("lstm", ""),
            ("transformer", ""),
            ("survival", ""),
            ("factorisation", "client"),
        )
        for case in ((task, federated, "client"), (task, pooled, "example"))
        if case[2] == "client" or task != "factorisation"
    ],
)
def test_tasks_are_learnt_in_private_sweeps(
    task: str, setup: Any, unit: str, tmp_path: Path
) -> None:
    noise = lab.axis("mechanism.noise_multiplier", [0.0, 1.0])
    points = lab.points(noise, setup(task), delta=1e-3)
    quiet, noisy = (outcome.last for outcome in lab.run_sweep(points, tmp_path))
    for name, (least, most) in LEARNT[task].items():
        assert least < quiet[name] <= most, name
        assert np.isfinite(noisy[name])
    assert noisy["params_digest"] != quiet["params_digest"]
    stated = lab.statement(points[1].setup, 1e-3)
    assert stated["privacy_unit"] == unit
    assert np.isfinite(stated["epsilon_public"])


def check(setup: Any) -> None:
    """As `run_sweep` does before anything is trained."""
    algorithm = setup.algorithm(lab.facts_of(setup))
    algorithm.check(lab.load_data(setup).clients)


@pytest.mark.parametrize(
    ("setup", "fields", "message"),
    [
        (pooled("regression"), {"data": parts.Digits()}, r"real targets, .*int32\[14"),
        (
            pooled("regression"),
            {"model": parts.FlaxSequence(bigrams)},
            "model has one score per class, but the data have no num_classes",
        ),
        (pooled("sequence"), {"data": parts.Digits()}, r"tokens \"x\".* have \[8, 8"),
        (pooled("sequence"), {"data": Sentences(5)}, "lie in .* got 5 in row 3"),
        (
            pooled("survival"),
            {"model": parts.Regression()},
            r'targets "y", \[n\] or \[n, d\], but the data have .*event',
        ),
        (
            pooled("survival"),
            {"model": parts.LogisticHazard((2.0, 1.0))},
            r"edges\[1\] must be above 2",
        ),
        (
            federated("factorisation"),
            {"model": parts.Factorisation(14)},
            r'"item" must lie in \[0, num_items = 14\), got 14',
        ),
        (federated("factorisation"), {"held_out": 0.0}, r"keep \['user'\].*set held_o"),
    ],
)  # fmt: skip
def test_data_and_models_that_do_not_fit(
    setup: Any, fields: dict[str, Any], message: str
) -> None:
    other = replace(setup, **fields)
    with pytest.raises(ValueError, match=message):
        check(other)


def test_a_user_s_model_does_not_predict_for_others() -> None:
    with pytest.raises(ValueError, match="clients keep their users' vectors"):
        federated("factorisation").predict({}, {})


@pytest.mark.parametrize(
    "model",
    [
        parts.Regression((4,), "huber", 0.5),
        parts.FlaxRegression(bigrams),
        parts.FlaxSurvival(bigrams, (1.0, 2.0)),
    ],
)
def test_modules_of_ones_own_have_as_many_outputs_as_are_asked_for(model: Any) -> None:
    """Also of targets with an axis."""
    facts = lab.facts_of(pooled("regression"))
    wide: Any = {"x": facts.example["x"], "y": jax.ShapeDtypeStruct((2,), np.float32)}
    network = model.network(facts._replace(example=wide))
    outputs = getattr(network, "num_tokens", None) or network.features[-1]
    assert outputs == 2


def test_a_module_of_ones_own_may_hold_arrays() -> None:
    class Scaled(nn.Module):
        outputs: int
        scales: Any = None

        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(self.outputs)(x * self.scales)

    model = parts.FlaxRegression(lambda outputs: Scaled(outputs, np.ones(10)))
    facts = lab.facts_of(pooled("regression"))
    task = model.build(facts)
    assert jax.eval_shape(task.init, jax.random.key(0))["params"]


def test_sequence_models_have_as_many_tokens_and_places_as_the_data() -> None:
    facts = lab.facts_of(pooled("sequence"))
    transformer: Any = parts.Transformer().network(facts)
    assert (transformer.vocab_size, transformer.max_length) == (5, 6)
    lstm: Any = parts.CharLstm(width=16).network(facts)
    assert (lstm.vocab_size, lstm.width, lstm.num_layers) == (5, 16, 2)
