"""`doctor`: whether the lab can run here, on which devices, and with which data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ppml_lab.cli import fitting, machine, places
from ppml_lab.cli.output import AsJson, print_json, print_table
from ppml_lab.units import shown


def doctor(
    *,
    experiment: str = "",
    config: str = "paper",
    chips: bool = False,
    as_json: AsJson = False,
) -> None:
    """Says whether the lab can run here, on which devices, with which data, and what
    fits.

    It writes nothing and downloads nothing. The exit code is 1 if there are problems.

    Compiled programs show what fits: how many clients train at once (lanes), how many
    runs are computed at once (width), how many of a sweep's runs the memory holds, and
    how many a sweep would choose.

    Example: python -m ppml_lab doctor --experiment dp_fedavg --config smoke --chips

    Args:
      experiment: The experiment whose runs should fit; by default a run of the default
        setup.
      config: The experiment's configuration.
      chips: Also estimate what fits accelerators that this machine lacks.
      as_json: Print one JSON object: packages, devices, data, folders, fits, problems,
        warnings.

    Raises:
      SystemExit: If the lab cannot run.
      ValueError: If there is no such experiment or configuration.
    """
    packages = machine.packages()
    findings, fits = [packages], []
    devices: Mapping[str, Any] = {}
    # With packages that are missing or too old, nothing else can be asked.
    if not packages.problems:
        found = machine.devices()
        devices = found.facts
        findings.append(found)
        if not found.problems:
            findings += [places.data_sets(), places.folders()]
            fits = fitting.rows(experiment, config, chips)
    problems = [line for finding in findings for line in finding.problems]
    warnings = [line for finding in findings for line in finding.warnings]
    rows = {name: rows for part in findings[2:] for name, rows in part.facts.items()}
    if as_json:
        facts = {"packages": packages.facts, "devices": devices, **rows}
        facts["fits"] = fits
        print_json({**facts, "problems": problems, "warnings": warnings})
    else:
        _print(packages.facts, devices, rows)
        if fits:
            print()
            print_table([fitting.printed(row) for row in fits])
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
        print(f"{name:18}{version or 'missing'}")
    for name, value in devices.get("flags", {}).items():
        print(f"{name}={value}")
    if "kind" in devices:
        memory = devices["memory_bytes"]
        each = f" with {shown(memory)} each" if memory else ""
        print(
            f"\nexperiments compute on {devices['count']} x {devices['kind']}{each} "
            f"(backend {devices['backend']}); the host has {devices['cpu_cores']} "
            f"cores and {shown(devices['host_memory_bytes'])}"
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
                "size": shown(row["bytes"]),
                "free": shown(row["free_bytes"]),
                "writable": "yes" if row["writable"] else "no",
            }
            for row in folders
        ]
    )
