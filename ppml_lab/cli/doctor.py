"""`doctor`: can the lab run here, on what, and with which data?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ppml_lab.cli import machine, places
from ppml_lab.cli.output import AsJson, print_json, print_table


def doctor(*, as_json: AsJson = False) -> None:
    """Says whether the lab can run here, on what, and with which data.

    It writes nothing and downloads nothing. The exit code is 1 if there are problems.

    Example: python -m ppml_lab doctor

    Args:
      as_json: Print one JSON object: packages, devices, data, folders, problems,
        warnings.

    Raises:
      SystemExit: If the lab cannot run.
    """
    packages = machine.packages()
    findings = [packages]
    devices: Mapping[str, Any] = {}
    # With packages that are missing or too old, nothing else can be asked.
    if not packages.problems:
        found = machine.devices()
        devices = found.facts
        findings.append(found)
        if not found.problems:
            findings += [places.data_sets(), places.folders()]
    problems = [line for finding in findings for line in finding.problems]
    warnings = [line for finding in findings for line in finding.warnings]
    rows = {name: rows for part in findings[2:] for name, rows in part.facts.items()}
    if as_json:
        facts = {"packages": packages.facts, "devices": devices, **rows}
        print_json({**facts, "problems": problems, "warnings": warnings})
    else:
        _print(packages.facts, devices, rows)
        print()
        for line in warnings:
            print(f"warning: {line}")
        for line in problems:
            print(f"problem: {line}")
        print("the lab cannot run here" if problems else "the lab can run here")
    if problems:
        sys.exit(1)


def _print(
    packages: Mapping[str, str | None],
    devices: Mapping[str, Any],
    tables: Mapping[str, list[dict[str, Any]]],
) -> None:
    for name, version in packages.items():
        print(f"{name:16}{version or 'missing'}")
    for name, value in devices.get("flags", {}).items():
        print(f"{name}={value}")
    if "kind" in devices:
        memory = devices["memory_bytes"]
        each = f" with {_size(memory)} each" if memory else ""
        print(
            f"\nexperiments compute on {devices['count']} x {devices['kind']}{each} "
            f"(backend {devices['backend']}); the host has {devices['cpu_cores']} "
            f"cores and {_size(devices['host_memory_bytes'])}"
        )
    if tables:
        _print_tables(tables["data"], tables["folders"])


def _print_tables(data: list[dict[str, Any]], folders: list[dict[str, Any]]) -> None:
    names = ("name", "state", "folder", "advice")
    print()
    print_table([{name: row[name] for name in names} for row in data])
    print()
    print_table(
        [
            {
                "for": row["for"],
                "folder": row["folder"],
                "size": _size(row["bytes"]),
                "free": _size(row["free_bytes"]),
                "writable": "yes" if row["writable"] else "no",
            }
            for row in folders
        ]
    )


def _size(count: int) -> str:
    for unit, bytes_each in {"GiB": 2**30, "MiB": 2**20}.items():
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"
