"""What a prompt and a notebook show of the lab's values: one line, or a table."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppml_lab import dp, federated, lab, models, smpc, tables
from ppml_lab.lab import parts

TASK = models.flax_classification(models.logistic(10), (8, 8, 1))
SGD = federated.local_sgd(TASK, optax.sgd(0.1), 10, num_epochs=1)
POISSON = federated.poisson(20, 0.5)
GAUSSIAN = dp.gaussian(1.0, noise_multiplier=2.0)
AVERAGING = federated.averaging(TASK, SGD, POISSON, mechanism=GAUSSIAN)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (TASK, "flax_classification(module=MLP, input_shape=(8, 8, 1))"),
        (
            SGD,
            "local_sgd(flax_classification, optimizer=an optimizer, batch_size=10, "
            "num_epochs=1)",
        ),
        (POISSON, "poisson(population=20, sampling_prob=0.5): 10 of 20 on average"),
        (
            GAUSSIAN,
            "gaussian(clip_norm=1, noise_multiplier=2): central DP of clients",
        ),
        (dp.no_privacy(), "PrivacyMechanism(...): promises nothing"),
        (smpc.additive_sharing(num_parties=3), "additive_sharing(num_parties=3)"),
        (
            AVERAGING,
            "averaging(flax_classification, local_sgd, poisson, gaussian): central DP",
        ),
        (parts.FedAvg(parts.Sgd(0.3)), "FedAvg(optimizer=Sgd(learning_rate=0.3))"),
        (parts.Digits(), "Digits()"),
        (lab.axis("clip_norm", [0.5])[0], "Setting(clip_norm=0.5)"),
        (
            lab.points(
                lab.axis("partition", {"few": parts.Iid(30)}), parts.Federated()
            )[0],
            "Point(setup='Federated', partition='few')",
        ),
    ],
)
def test_a_value_is_one_line(value: Any, line: str) -> None:
    assert repr(value) == line


def test_a_record_with_another_function_says_so() -> None:
    other = GAUSSIAN._replace(report=lambda state: {})
    assert repr(other).startswith("gaussian(clip_norm=1, noise_multiplier=2), changed:")
    assert "changed" not in repr(GAUSSIAN)


def test_a_state_and_traced_numbers_are_shown() -> None:
    state = jax.jit(AVERAGING.init)(jax.random.key(0))
    assert repr(state) == "ServerState(650 parameters, 0 rounds done)"
    seen = []

    def build(noise: Any) -> Any:
        seen.append(repr(dp.gaussian(1.0, noise)))
        seen.append(repr(parts.Gaussian(1.0, noise)))
        return noise

    jax.eval_shape(build, jnp.float32(1.0))
    assert seen[0] == (
        "gaussian(clip_norm=1, noise_multiplier=traced): central DP of clients"
    )
    assert seen[1].startswith("Gaussian(noise_multiplier=")


def test_what_is_shown_keeps_nothing_alive() -> None:
    made = dp.gaussian(1.0, 2.0)
    clip = weakref.ref(made.clip)
    del made
    gc.collect()
    assert clip() is None


def test_outcomes_are_a_table(tmp_path: Path) -> None:
    setup = parts.Federated(
        partition=parts.Iid(20), schedule=lab.Schedule(num_rounds=1, eval_every=1)
    )
    sweep = lab.product(lab.seeds(2), lab.axis("trainer.batch_size", [8, 16]))
    runs = lab.run_sweep(lab.points(sweep, setup), tmp_path)
    table = runs.table("accuracy")
    assert [[*row] for row in table] == [["trainer.batch_size", "seed", "accuracy"]] * 4
    assert repr(runs) == "Table(4 rows: trainer.batch_size, seed, accuracy, loss)"
    assert repr(runs[0]).startswith("Outcome(trainer.batch_size=8, seed=0, accuracy=")
    means = table.means()
    assert [row["seeds"] for row in means] == [2, 2]
    own = [run.last["accuracy"] for run in (runs[0], runs[2])]
    assert means[0]["accuracy"] == pytest.approx(np.mean(own))
    assert runs._repr_html_().count("<tr>") == 5
    with pytest.raises(ValueError, match="columns has 'acuracy'; the run recorded "):
        runs.table("acuracy")


def test_a_table_s_text_and_html() -> None:
    rows: list[tables.Row] = [
        {"a": 1, "b<": 0.123456, "c": None},
        {"a": 10, "b<": 1.0, "c": "x"},
    ]
    table = tables.Table(rows)
    assert str(table) == "a   b<      c\n1   0.1235\n10  1       x"
    assert "<th>b&lt;</th>" in table._repr_html_()
    assert "<td></td>" in table._repr_html_()
    more: list[tables.Row] = [{"a": i} for i in range(tables.SHOWN + 5)]
    many = tables.Table(more)
    assert "and 5 more rows" in many._repr_html_()
    assert many._repr_html_().count("<td>") == tables.SHOWN
    assert (str(tables.Table()), repr(tables.Table())) == ("", "Table(0 rows: )")


def test_means_of_values_that_are_not_finite_are_nan() -> None:
    rows: list[tables.Row] = [
        {"x": 1, "seed": 0, "loss": 1.0},
        {"x": 1, "seed": 1, "loss": float("nan")},
    ]
    (found,) = tables.Table(rows).means()
    assert found["seeds"] == 2
    assert str(found["loss"]) == "nan"
