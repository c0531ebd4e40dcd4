"""The files of a sweep: run folders, tables and provenance.

    <folder>/provenance.json      how results were made (`lab.disk.provenance`)
    <folder>/table.csv            one row per finished run
    <folder>/runs/<id>/config.json, provenance.json, rounds.jsonl, result.json (its
                       presence means that the run is finished)
    <folder>/checkpoints/    states of unfinished runs (`lab.disk.checkpoints`)

Every file is replaced in one step, so that a killed process leaves no half-written
file. The files that a result or a checkpoint builds on are on the disk before it is. A
result holds digests of itself and of its rounds: changed files are refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np


def canonical(config: Any) -> str:
    """Returns one text for equal configurations, whatever the order of their keys."""
    return json.dumps(config, sort_keys=True, default=_plain)


def name_of(config: Any) -> str:
    """Returns a name of 16 hexadecimal digits, equal for equal configurations only."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:16]


def described(config: Any) -> Any:
    """Returns a configuration as strict JSON has it: infinity is "inf"."""
    return json.loads(json.dumps(_strict(config, words=True), default=_plain))


class DamagedError(ValueError):
    """A file does not hold what was written; the error says which file, and what to
    do.
    """


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Writes `value` as strict JSON, in one step; no number becomes null.

    Args:
      path: The file.
      value: A value that JSON can hold.
      durable: Whether the file is on the disk before the function returns.
    """
    text = json.dumps(_strict(value), indent=1, default=_plain, allow_nan=False)
    _replace(path, f"{text}\n".encode(), durable)


def read_json(path: Path) -> Any:
    """Returns the object or list that `write_json` wrote.

    Raises:
      DamagedError: If the file holds no such value.
    """
    try:
        found = json.loads(path.read_text(errors="replace"))
    except ValueError as error:
        raise DamagedError(f"{path} is damaged ({error}); delete it") from error
    if not isinstance(found, dict | list):
        raise DamagedError(f"{path} is damaged: it holds {found!r}; delete it")
    return found


def once(folder: Path, about: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """Returns the result of `compute()`, computed once for each `about` and read from
    `folder` after that.

    None is no result, and is computed again.

    Args:
      folder: The folder of the files of results.
      about: All that the result depends on, as values that JSON can hold.
      compute: Returns a value that JSON can hold, or None.

    Raises:
      DamagedError: If the result's file is not what was written; says which file.
    """
    path = folder / f"{name_of(about)}.json"
    if not path.exists():
        found = compute()
        if found is None:
            return None
        write_json(path, {"about": described(about), "found": found})
    there = read_json(path)
    if not isinstance(there, dict) or "found" not in there:
        raise DamagedError(f"{path} is damaged: it holds no result; delete it")
    return there["found"]


def write_result(folder: Path, last: Mapping[str, Any]) -> None:
    """Writes a run's result.json, the last of its files, sealed by digests."""
    lines = folder / "rounds.jsonl"
    to_disk(lines)
    whole = json.loads(json.dumps(_strict(last), default=_plain, allow_nan=False))
    whole["rounds_digest"] = hashlib.sha256(lines.read_bytes()).hexdigest()[:16]
    sealed = whole | {"digest": name_of(whole)}
    write_json(folder / "result.json", sealed, durable=True)


def read_result(folder: Path) -> dict[str, Any]:
    """Returns the result that `write_result` wrote, without its digests.

    Raises:
      DamagedError: If the result, or the run's rounds.jsonl, has changed since.
      FileNotFoundError: If there is no result.
    """
    path, lines = folder / "result.json", folder / "rounds.jsonl"
    found = read_json(path)
    seal = found.pop("digest", None) if isinstance(found, dict) else None
    if seal is None or seal != name_of(found):
        raise DamagedError(f"{path} has changed since it was written; delete {folder}")
    rounds = found.pop("rounds_digest", None)
    if not lines.exists() or (
        hashlib.sha256(lines.read_bytes()).hexdigest()[:16] != rounds
    ):
        raise DamagedError(f"{lines} has changed since the run ended; delete {folder}")
    return found


def to_disk(path: Path) -> None:
    """Makes sure that a file's content survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_rounds(path: Path, rounds_done: int) -> bool:
    """Returns whether a JSON-lines file has the rounds 1 to `rounds_done`, each once
    and in order.
    """
    if not path.exists():
        return rounds_done == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers = [row.get("round") for row in read_lines(path)]
    whole = [n for n in numbers if isinstance(n, int) and n <= rounds_done]
    return len(whole) == rounds_done and whole == [*range(1, rounds_done + 1)]


def append_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Appends rows to a JSON-lines file."""
    with path.open("a") as file:
        file.write("".join(_line(row) for row in rows))


def keep_rounds(path: Path, rounds_done: int) -> None:
    """Cuts a JSON-lines file to its first `rounds_done` rounds; a killed run may have
    written more.
    """
    if path.exists():
        rows = read_lines(path)
        kept = [row for row in rows if row.get("round", math.inf) <= rounds_done]
        text = "".join(_line(row) for row in kept)
        _replace(path, text.encode())


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV table; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: _cell(value) for name, value in row.items()} for row in rows
    )
    _replace(path, text.getvalue().encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSON-lines file; warns of broken lines and skips them."""
    rows = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            warnings.warn(
                f"{path}, line {number} is not a JSON row and was skipped", stacklevel=2
            )
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(_strict(row), default=_plain, allow_nan=False) + "\n"


def _replace(path: Path, content: bytes, durable: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes in several containers may share a process number.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with temporary.open("wb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    return value


def _strict(value: Any, words: bool = False) -> Any:
    """Returns the value with inf and nan, which JSON lacks, as None or as their
    names.
    """
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if words else None
    if hasattr(value, "_asdict"):
        # Keeps names: JSON would make a list of a named tuple.
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _strict(part, words) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(part, words) for part in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot record {value!r} of type {type(value).__name__}")
