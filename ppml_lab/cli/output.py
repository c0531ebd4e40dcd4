"""Output of commands: strict JSON, or a table as wide as the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

AsJson = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]

Table = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]

# Spaces between two columns.
_GAP = 2
_UNBOUNDED = 100_000


def print_json(value: Any) -> None:
    """Prints one JSON value on a line, with "inf" for infinity, which JSON lacks."""
    print(json.dumps(_strict(value), allow_nan=False))


def print_table(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> None:
    """Prints rows in full, in blocks of columns where a terminal is too narrow.

    If there are several blocks, each begins with the numbers of the rows.

    Args:
      rows: At least one row; all have the columns of the first. None is an empty cell.
      width: Characters of a line; if None, the terminal's, or unbounded where the
        output is no terminal.
    """
    from rich import box, console, table

    terminal = console.Console()
    if width is None and terminal.is_terminal:
        width = terminal.width
    screen = console.Console(
        width=width or _UNBOUNDED, highlight=False, markup=False, emoji=False
    )
    rows = [{_text(name): cell for name, cell in row.items()} for row in rows]
    cells = {name: [_text(row[name]) for row in rows] for name in rows[0]}
    numbers = [str(number) for number in range(len(rows))]
    blocks = _blocks(cells, len(numbers[-1]), width)
    for names in blocks:
        # The box itself draws one column of the gap.
        shown = table.Table(
            box=box.SIMPLE_HEAD,
            padding=(0, _GAP - 1, 0, 0),
            pad_edge=False,
            show_edge=False,
        )
        columns = {name: cells[name] for name in names}
        if len(blocks) > 1:
            columns = {"#": numbers, **columns}
        for name in columns:
            numeric = name == "#" or all(_is_number(row[name]) for row in rows)
            side = "right" if numeric else "left"
            shown.add_column(name, justify=side, overflow="fold")
        for row in zip(*columns.values(), strict=True):
            shown.add_row(*row)
        if names is not blocks[0]:
            screen.print()
        screen.print(shown)


def _blocks(
    cells: Mapping[str, Sequence[str]], lead: int, width: int | None
) -> list[list[str]]:
    """Returns blocks of columns that fit into `width` beside a column of `lead`
    characters.
    """
    widths = {
        name: _GAP + max(map(len, [name, *column])) for name, column in cells.items()
    }
    if width is None or sum(widths.values()) - _GAP <= width:
        return [list(cells)]
    blocks: list[list[str]] = []
    used = lead
    for name, needed in widths.items():
        if not blocks or used + needed > width:
            blocks.append([])
            used = lead
        blocks[-1].append(name)
        used += needed
    return blocks


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    # Escaped, so that cells cannot move the cursor.
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(value)
    )


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return value
