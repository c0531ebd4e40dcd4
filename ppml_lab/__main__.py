"""The command line: `python -m ppml_lab --help`, or `ppml-lab --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from ppml_lab.cli.budget import calibrate, epsilon
from ppml_lab.cli.compare import compare
from ppml_lab.cli.cost import cost
from ppml_lab.cli.experiments import list_experiments
from ppml_lab.cli.show import show

_COMMANDS = {
    "epsilon": epsilon,
    "calibrate": calibrate,
    "list": list_experiments,
    "show": show,
    "compare": compare,
    "cost": cost,
}

_DESCRIPTION = """The laboratory at the prompt. Every command has --help with an
example, and --json.

Example: python -m ppml_lab epsilon --sampling-prob 0.01 --noise-multiplier 1.1
--num-steps 1000 --delta 1e-5
"""


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0, or 2 if an argument is bad."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            _COMMANDS,
            prog="python -m ppml_lab",
            description=_DESCRIPTION,
            args=args,
        )
    except ValueError as error:
        print(f"ppml_lab: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
