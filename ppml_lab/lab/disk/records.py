"""What a sweep leaves on disk: run folders, tables, and where they came from.

    <folder>/provenance.json      where they come from (`lab.disk.provenance`)
    <folder>/table.csv            one row per finished run
    <folder>/runs/<id>/config.json, provenance.json, rounds.jsonl, result.json (its
                       presence means that the run is finished)
    <folder>/checkpoints/    where unfinished runs stand (`lab.disk.checkpoints`)

Every file is replaced in one step, so that a killed process leaves no half of one. What
a result or a checkpoint builds on lies on the disk before it does, and a result holds
digests of itself and of its rounds: what has changed since is not believed.
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
    """One text for equal configurations, whatever the order of their keys."""
    return json.dumps(config, sort_keys=True, default=_plain)


def name_of(config: Any) -> str:
    """A name of 16 hexadecimal digits, the same for equal configurations alone."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:16]


def described(config: Any) -> Any:
    """A configuration as strict JSON has it: infinity is "inf"."""
    return json.loads(json.dumps(_strict(config, words=True), default=_plain))


class DamagedError(ValueError):
    """A file that holds other than what was written; says which, and what to do."""


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Writes `value` as strict JSON, in one step; no number becomes null.

    Args:
      path: The file.
      value: Anything that JSON can say.
      durable: Whether it lies on the disk before the function returns.
    """
    text = json.dumps(_strict(value), indent=1, default=_plain, allow_nan=False)
    _replace(path, f"{text}\n".encode(), durable)


def read_json(path: Path) -> Any:
    """What `write_json` wrote: an object.

    Raises:
      DamagedError: If it cannot be read as one.
    """
    try:
        found = json.loads(path.read_text(errors="replace"))
    except ValueError as error:
        raise DamagedError(f"{path} is damaged ({error}); delete it") from error
    if not isinstance(found, dict | list):
        raise DamagedError(f"{path} is damaged: it holds {found!r}; delete it")
    return found


def once(folder: Path, about: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """What `compute()` gives, as JSON has it, computed once for each `about` and read
    from `folder` after that; None is no result, and is computed again.

    Args:
      folder: Where files of such results go.
      about: All that the result depends on, as values that JSON can say.
      compute: Anything that JSON can say.

    Raises:
      DamagedError: If the file of the result is not what was written; says which.
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
    """What `write_result` wrote, without its digests.

    Raises:
      DamagedError: If it, or the run's rounds.jsonl, has changed since.
      FileNotFoundError: If there is none.
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
    """Whether a JSON-lines file begins with rounds 1 to so many, each once."""
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
    """Cuts a JSON-lines file to its rounds so far; a killed run may have more."""
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
    """The rows of a JSON-lines file; warns of lines that are none and skips them."""
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
                f"{path}, line {number} is no JSON row and was skipped", stacklevel=2
            )
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(_strict(row), default=_plain, allow_nan=False) + "\n"


def _replace(path: Path, content: bytes, durable: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of processes in containers, several may have one number.
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
    """The value without what JSON has no number for: inf and nan become None, or their
    names.
    """
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if words else None
    if hasattr(value, "_asdict"):
        # By name: JSON would make a list of a named tuple.
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
