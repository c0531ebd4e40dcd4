"""Results tables in LaTeX: means over seeds, with their spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ppml_lab import tables
from ppml_lab.tables import Row, Value

_ESCAPED = {letter: f"\\{letter}" for letter in "&%$#_{}"}
_ESCAPED |= {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\n": " ",
}
_INFINITE = {math.inf: r"$\infty$", -math.inf: r"$-\infty$"}
_DIGITS = 2
"""Digits of a spread; its mean ends at the same decimal."""


def table(rows: Sequence[Row], columns: Sequence[str] = ()) -> str:
    """Returns a `tabular` with booktabs' rules: one line for each configuration, with
    mean and standard deviation of numbers that differ between seeds.

    Args:
      rows: At least one row; all rows have the same columns.
      columns: The columns to show, in this order. By default those in which
        configurations differ, without columns that differ between seeds and hold no
        numbers; columns with one value are comments.

    Raises:
      ValueError: If two lines would look alike in all columns that tell configurations
        apart, or a column differs between seeds and holds no numbers.
    """
    groups = tables.over_seeds(rows)
    kept, shared = [*columns], []
    if not columns:
        shown = _means(groups)
        shared = [name for name in shown if len({row[name] for row in rows}) == 1]
        kept = [name for name in shown if name not in shared] or shown
    lines: dict[tuple[str, ...], Mapping[str, Value]] = {}
    told_by = [name for name in kept if name in tables.labels(rows)]
    for group in groups:
        # LaTeX prints several spaces as one, and none at the ends.
        name = tuple(" ".join(_cell(n, group).split()) for n in told_by)
        if name in lines:
            raise ValueError(_alike(lines[name], group[0], told_by, rows))
        lines[name] = group[0]
    cells = [[_cell(name, group) for name in kept] for group in groups]
    sides = ["r" if _is_numeric(rows, name) else "l" for name in kept]
    text = [
        *_remarks(rows, groups, kept),
        *(f"% {name}: {' '.join(str(rows[0][name]).split())}" for name in shared),
        f"\\begin{{tabular}}{{{''.join(sides)}}}",
        "\\toprule",
        _line(map(escaped, kept)),
        "\\midrule",
        *map(_line, cells),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(text)


def escaped(text: str) -> str:
    """Returns text escaped for LaTeX."""
    return "".join(_ESCAPED.get(letter, letter) for letter in text)


def number(value: float, decimals: int | None = None) -> str:
    """Returns a number in math mode, with `decimals` decimals or six digits."""
    if value in _INFINITE:
        return _INFINITE[value]
    shown = f"{value:.6g}" if decimals is None else f"{value:.{decimals}f}"
    digits, exponent, power = shown.partition("e")
    times = f" \\times 10^{{{int(power)}}}" if exponent else ""
    return f"${digits}{times}$"


def with_spread(mean: float, std: float) -> str:
    """Returns a mean and a standard deviation, to two digits of the deviation."""
    size = max(abs(mean), std)
    power = math.floor(math.log10(size))
    # Long numbers share one power of ten.
    power = 0 if -4 <= power < 6 else power
    scaled, spread = mean / 10.0**power, std / 10.0**power
    decimals = max(0, _DIGITS - 1 - math.floor(math.log10(spread)))
    both = f"{scaled:.{decimals}f} \\pm {spread:.{decimals}f}"
    return f"$({both}) \\times 10^{{{power}}}$" if power else f"${both}$"


def _alike(
    one: Mapping[str, Value],
    other: Mapping[str, Value],
    told_by: Sequence[str],
    rows: Sequence[Row],
) -> str:
    """Returns the error text about two lines that nobody could tell apart."""
    name = ", ".join(str(one[column]) for column in told_by)
    pair = [{n: row[n] for n in tables.labels(rows)} for row in (one, other)]
    same = [
        f"{column} {one[column]!r} and {other[column]!r} are printed the same"
        for column in told_by
        if one[column] != other[column]
    ]
    cure = "change these cells of the table, or " if same else ""
    return (
        f"several lines show {name or 'the whole table'}: "
        f"{'; '.join([*same, tables.differing(pair)])}; {cure}add a column"
    )


def _means(groups: Sequence[Sequence[Mapping[str, Value]]]) -> list[str]:
    """Returns the columns that have one value, or a mean, in each configuration."""

    def is_kept(name: str) -> bool:
        cells = [[row[name] for row in group] for group in groups]
        return all(len(set(own)) == 1 or _has_mean(own) for own in cells)

    return [n for n in groups[0][0] if n != tables.SEED and is_kept(n)]


def _has_mean(cells: Sequence[Value]) -> bool:
    return all(
        cell is None or tables.is_number(cell) or cell == "nan" for cell in cells
    )


def _cell(name: str, group: Sequence[Mapping[str, Value]]) -> str:
    cells = [row[name] for row in group]
    if len(set(cells)) == 1:
        return _plain(cells[0])
    if not _has_mean(cells):
        shown = ", ".join(map(str, cells[:3]))
        raise ValueError(
            f"columns: {name} has no mean, as its values over seeds are {shown}; leave "
            "this column out"
        )
    finite = [float(cell or 0) for cell in cells if tables.is_finite(cell)]
    if not finite:
        return "--"
    found = tables.mean(finite)
    return with_spread(found.mean, found.std) if found.std else _plain(found.mean)


def _plain(cell: Value) -> str:
    if cell is None:
        return "--"
    if tables.is_number(cell):
        return f"${cell}$" if isinstance(cell, int) else number(float(cell))
    return escaped(str(cell))


def _is_numeric(rows: Sequence[Row], name: str) -> bool:
    cells = [row[name] for row in rows if row[name] is not None]
    return bool(cells) and all(map(tables.is_number, cells))


def _line(cells: Iterable[str]) -> str:
    line = f"{' & '.join(cells)} \\\\"
    # The command before would take a star or a bracket for its argument.
    return f"{{}}{line}" if line.lstrip().startswith(("[", "*")) else line


def _remarks(
    rows: Sequence[Row],
    groups: Sequence[Sequence[Mapping[str, Value]]],
    kept: Sequence[str],
) -> list[str]:
    """Returns comments for readers of the LaTeX source."""
    found = ["needs \\usepackage{booktabs}"]
    if tables.SEED in rows[0]:
        counts = sorted({len(group) for group in groups})
        span = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        found.append(f"means and standard deviations over {span} seeds")
    for name in kept:
        lost = sum(
            not tables.is_finite(row[name])
            for group in groups
            if len({row[name] for row in group}) > 1
            for row in group
        )
        if lost:
            found.append(f"{name}: {lost} values that are not finite are left out")
    return [f"% {text}" for text in found]
