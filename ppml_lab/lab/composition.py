"""What the runs of a sweep cost together: they look at the same data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ppml_lab.dp import accounting, ledger
from ppml_lab.lab.budget import whole_run
from ppml_lab.lab.loading import load_data
from ppml_lab.lab.point import Point


def cost_together(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The epsilon of releasing every private run, for each data set and promise.

    Who chooses a setting by the runs' results has looked at all of them. Runs without
    noise promise nothing and are left out, so the cost is that of a choice among the
    others. `dp.selection` says how a choice may cost less.

    **Guarantee:** adaptive composition, by RDP, of the runs that a row counts.

    Returns:
      Rows of `dataset`, `privacy_unit`, `neighboring_relation`, `delta`, `runs` and
      `epsilon_rdp`.
    """
    groups: dict[tuple[Any, ...], ledger.Ledger] = {}
    for number, point in enumerate(points):
        data, delta = point.config.data, point.delta
        event = whole_run(point.config, point.hyperparams, load_data(data).facts)
        unit = event.privacy_unit
        if unit is None or delta is None:
            continue
        if math.isinf(accounting.epsilon(event, delta)):
            continue
        # Another partition has other clients, but the same examples.
        whose = data if unit == "client" else None
        group = (data.dataset, whose, unit, event.neighboring_relation, delta)
        runs = groups.get(group, ledger.Ledger())
        groups[group] = ledger.add(runs, str(number), event)
    return [
        {
            "dataset": dataset,
            "privacy_unit": unit,
            "neighboring_relation": relation,
            "delta": delta,
            "runs": len(runs.entries),
            "epsilon_rdp": accounting.epsilon(ledger.total(runs), delta),
        }
        for (dataset, _, unit, relation, delta), runs in groups.items()
    ]
