"""Checks of memory after a release: only what was released may be remembered."""

from __future__ import annotations

import numpy as np

from ppml_lab.audit import probes, worlds
from ppml_lab.audit.probes import Finding
from ppml_lab.audit.subjects import Subject

_CLOSE = 1e-3
_NUM_PAIRS = 16
_ROOM = 0.9
"""The largest share of the clip norm that a row has, so that no row is clipped."""


def state(subject: Subject, run: probes.Runner, num_runs: int = 4096) -> Finding:
    """Checks that a state is made only of what was released.

    Two runs that release the same must remember the same. Where one run's noise differs
    from another's by `d`, rows whose sum is `d` make up for the difference: nobody's
    data under one key and these rows under the other release the same, and then every
    number of the state has to be the same, too.
    """
    skipped = Finding(
        "state", False, "not applicable: no state, or no two equal releases"
    )
    if not subject.additive or subject.steps > 1:
        return skipped
    numbers = np.arange(num_runs)
    relation = subject.event.neighboring_relation
    empty = worlds.nobody(relation)
    alone = run(numbers, *probes.alone(empty), np.zeros(num_runs))
    if alone.memory is None or alone.values.shape[2] != worlds.DIMENSION:
        return skipped
    noise = alone.values[:, 0].astype(np.float64)
    gap = probes.gap_of_rows(subject, run, numbers)[:, 0]
    who = np.abs(gap) > 0.25
    if not who.any():
        return skipped
    sign = np.sign(gap[who][0])
    keys = np.argsort(-who.sum(axis=1), kind="stable")[:_NUM_PAIRS]
    partners, rows, present = [], [], []
    for key in keys:
        distance = np.linalg.norm(noise - noise[key], axis=1)
        distance[key] = np.inf
        partner = int(np.argmin(distance))
        members = np.flatnonzero(who[key])
        each = sign * (noise[partner] - noise[key]) * subject.clip_norm / len(members)
        if np.linalg.norm(each) > _ROOM * subject.clip_norm:
            continue
        own = np.zeros_like(empty[0])
        own[members] = each
        partners.append((key, partner))
        rows.append(own)
        present.append(empty[1] | (np.arange(worlds.NUM_ROWS) < worlds.DIMENSION))
    if not partners:
        return skipped
    ours, theirs = np.array(partners).T
    seen = run(ours, np.stack(rows), np.stack(present), np.arange(len(ours)))
    assert seen.memory is not None
    alike = np.abs(seen.values[:, 0] - alone.values[theirs, 0]).max(axis=1) < _CLOSE
    if not alike.any():
        return skipped
    memory = alone.memory[:, 0].astype(np.float64)
    scale = memory.std(axis=0) + 1e-3 * np.abs(memory).max(axis=0) + 1e-9
    off = np.abs(seen.memory[:, 0] - memory[theirs])[alike] / scale
    worst = float(off.max(initial=0.0))
    if worst > 10 * _CLOSE:
        detail = f"runs with equal releases have states that differ by {worst:.2g}"
        return Finding("state", True, f"{detail} of the state's spread")
    detail = f"{int(alike.sum())} pairs with equal releases have equal states"
    return Finding("state", False, detail)


def frozen(subject: Subject, run: probes.Runner, num_runs: int = 64) -> Finding:
    """Checks that constant leaves do not move and use up nothing of the clip norm."""
    skipped = Finding("frozen", False, "not applicable: nothing is constant")
    relation = subject.event.neighboring_relation
    data = worlds.one_coordinate_each(subject.clip_norm, relation)
    numbers = np.arange(num_runs)
    seen = run(numbers, *probes.alone(data), np.zeros(num_runs))
    if seen.unmoved is None:
        return skipped
    moved = float(np.abs(seen.unmoved).max(initial=0.0))
    if moved != 0:
        return Finding("frozen", True, f"constant leaves move by {moved:.3g}")
    most = np.abs(probes.gap_of_rows(subject, run, numbers)).max()
    if most < 0.5:
        detail = f"a row with the norm clip_norm counts as {most:.2g} of clip_norm"
        return Finding("frozen", True, f"{detail}: constant leaves use up clip_norm")
    return Finding(
        "frozen", False, "constant leaves do not move and use up nothing of clip_norm"
    )
