"""The command line: `python -m ppml_lab --help`, or `ppml-lab --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import tyro

from ppml_lab.cli.advise import advise
from ppml_lab.cli.budget import calibrate, epsilon
from ppml_lab.cli.compare import compare
from ppml_lab.cli.cost import cost
from ppml_lab.cli.doctor import doctor
from ppml_lab.cli.experiments import list_experiments
from ppml_lab.cli.explore import explore
from ppml_lab.cli.pages import pages
from ppml_lab.cli.plot import plot
from ppml_lab.cli.run import merge, run
from ppml_lab.cli.show import show

COMMANDS = {
    "doctor": doctor,
    "list": list_experiments,
    "run": run,
    "merge": merge,
    "show": show,
    "plot": plot,
    "compare": compare,
    "explore": explore,
    "pages": pages,
    "epsilon": epsilon,
    "calibrate": calibrate,
    "cost": cost,
    "advise": advise,
}
_FORWARDING = ("run", "merge")

_DESCRIPTION = """The laboratory at the prompt. Every command has --help with an
example, and --json.

Example: python -m ppml_lab epsilon --sampling-prob 0.01 --noise-multiplier 1.1
--num-steps 1000 --delta 1e-5
"""


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 if an argument is bad, or 1 if
    the reader of its output has gone.
    """
    args = _forwarded(sys.argv[1:] if args is None else args)
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="python -m ppml_lab",
            description=_DESCRIPTION,
            args=args,
        )
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; nor can Python flush at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        print(f"ppml_lab: error: {error}", file=sys.stderr)
        return 2
    return 0


def _forwarded(args: Sequence[str]) -> list[str]:
    """Marks an experiment's own options, --help too, as not ours, by a "--" before
    them.
    """
    command, rest = args[:1], args[1:]
    ours = [arg for arg in rest if arg == "--json"]
    theirs = [arg for arg in rest if arg != "--json"]
    if not theirs or theirs[0].startswith("-") or command[0] not in _FORWARDING:
        return [*args]
    return [*command, *ours, "--", *theirs]


if __name__ == "__main__":
    sys.exit(main())
