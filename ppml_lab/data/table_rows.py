"""The labels of a table's rows, and whose each row is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ppml_lab.data import cells as reading
from ppml_lab.data.cells import Cells

_MOST_NAMED = 10


def labels(
    cells: Cells, target: str, kind: str
) -> tuple[np.ndarray, int | None, list[str]]:
    """Returns (y `[n]`, the number of classes, notes on them)."""
    if kind == "numbers":
        advice = "labels='classes' takes strings"
        found = reading.numbers(cells, target, advice)
        reading.check_single(cells, target, found)
        return found.astype(np.float32), None, []
    column = cells.columns[target]
    classes = sorted({str(cell) for cell in column})
    values = [reading.number(name) for name in classes]
    # 007 is a code: 7 would be another.
    if None not in values and not any(re.fullmatch(r"-?0\d+", c) for c in classes):
        for i, cell in enumerate(column):
            if not float(cell).is_integer():
                raise ValueError(
                    f"{cells.path}: {cells.row(i)}, target {target!r}: {cell!r} is not "
                    "a whole number, so it is not a class; give labels='numbers'"
                )
        # 1 and 1.0 are one class, and 10 comes behind 9.
        column = [str(_whole(str(cell))) for cell in column]
        classes = sorted(set(column), key=int)
    if len(classes) < 2:
        raise ValueError(
            f"{cells.path}: target {target!r} is {classes[0]!r} in every row; at least "
            "2 classes are needed"
        )
    places = {name: i for i, name in enumerate(classes)}
    y = np.array([places[str(cell)] for cell in column], np.int32)
    shown = ", ".join(classes[:_MOST_NAMED]) + ", ..." * (len(classes) > _MOST_NAMED)
    return y, len(classes), [f"classes of {target} from 0 on: {shown}"]


def _whole(text: str) -> int:
    """The whole number that a text writes, exact also where floats are not."""
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else int(float(text))


def times(cells: Cells, target: str, event: str) -> dict[str, np.ndarray]:
    """Each row's time, and whether its event was seen."""
    time = reading.numbers(cells, target, "give times as numbers of one unit")
    seen = reading.numbers(
        cells, event, "write 1 where the event was seen and 0 elsewhere"
    )
    for name, column, is_good, what in (
        (target, time, time.astype(np.float32) > 0, "a time must be above 0"),
        (event, seen, (seen == 0) | (seen == 1), "an event must be 1 (seen) or 0"),
    ):
        if not is_good.all():
            bad = int(np.argmin(is_good))
            raise ValueError(
                f"{cells.path}: {cells.row(bad)}, column {name!r}: {what}, got "
                f"{column[bad]:g}"
            )
    return {"time": time.astype(np.float32), "event": seen.astype(np.int32)}


def users(column: Sequence[Any]) -> np.ndarray:
    """The user of each row, as numbers where all are written as whole numbers."""
    texts = [str(cell) for cell in column]
    # 1 and 1.0 are one user.
    whole = all(re.fullmatch(r"(0|-?[1-9]\d{0,17})(\.0+)?", text) for text in texts)
    return np.array([int(text.split(".")[0]) for text in texts] if whole else texts)


def numbered(column: Sequence[Any]) -> np.ndarray:
    """Numbers from 0 on for the different cells, `[n]` int32."""
    return np.unique(users(column), return_inverse=True)[1].astype(np.int32)
