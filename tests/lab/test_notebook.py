"""Parts that are written in the cells of a notebook, in a real kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PART = """
@lab.part
class Mine(parts.FedAvg):
    factor: lab.Traced = 1.0

    def build(self, task, facts, server):
        trainer, server = super().build(task, facts, server)

        def finish(sent, state):
            update, kept, info = trainer.finish(sent, state)
            scaled = jax.tree.map(lambda leaf: {scaled}, update)
            return scaled, kept, info

        return trainer._replace(finish=finish), server
"""
SWEEP = """
setup = parts.Federated(
    partition=parts.Iid(20), trainer=Mine(), sampler=parts.Poisson(5),
    schedule=lab.Schedule(num_rounds=2, eval_every=2),
)
points = lab.points(lab.axis("trainer.factor", [0.5, 1.0]), setup)
found = lab.run_sweep(points, "runs")
print([round(one.last["loss"], 6) for one in found])
"""


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Any]:
    """Runs a cell of a fresh kernel and gives what it printed."""
    manager = pytest.importorskip("jupyter_client.manager")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    kernel, client = manager.start_new_kernel(
        kernel_name="python3", cwd=str(tmp_path), env=environment
    )

    def run(code: str) -> str:
        said: list[str] = []

        def hear(message: Any) -> None:
            content = message["content"]
            said.append(content.get("text", "") if "text" in content else "")
            said.append(content.get("data", {}).get("text/html", ""))
            said.extend(content.get("traceback", []))

        reply = client.execute_interactive(code, output_hook=hear, timeout=120)
        assert reply["content"]["status"] == "ok", said
        return "".join(said)

    yield run
    client.stop_channels()
    kernel.shutdown_kernel(now=True)


def losses_of(said: str) -> list[float]:
    """What a cell printed, below the line of progress."""
    return eval(said[said.rindex("[") :])


@pytest.mark.slow
def test_a_part_of_a_cell_and_its_next_version(cell: Any) -> None:
    cell("import jax\nfrom ppml_lab import lab")
    cell("from ppml_lab.lab import parts")
    cell(PART.format(scaled="self.factor * leaf"))
    first = cell(SWEEP)
    assert "4/4 rounds: " in first
    # The same again trains nothing.
    assert losses_of(cell(SWEEP)) == losses_of(first)
    # Outcomes are a table where they are shown.
    shown = cell("found")
    assert shown.startswith("<table><thead><tr><th>trainer.factor</th>")
    assert shown.count("<tr>") == 3
    cell(PART.format(scaled="self.factor * self.factor * leaf"))
    second = cell(SWEEP)
    losses = [*map(losses_of, (first, second))]
    assert losses[0][1] == losses[1][1]
    assert losses[0][0] != losses[1][0]
