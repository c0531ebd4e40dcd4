"""`list`: which experiments there are, and which have results."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from ppml_lab.cli.output import AsJson, print_json, print_table
from ppml_lab.cli.tables import RESULTS

_FOLDER = Path("experiments")


def list_experiments(*, as_json: AsJson = False) -> None:
    """Lists the experiments below the current folder.

    Example: python -m ppml_lab list

    Args:
      as_json: Print one JSON array; `results` has the tables' paths by configuration.

    Raises:
      ValueError: If there is no folder of experiments here, or one does not parse.
    """
    found = [_describe(path) for path in find().values()]
    if as_json:
        print_json(found)
        return
    print_table(
        [
            {
                "name": about["name"],
                "configurations": ", ".join(about["configurations"]) or "-",
                "results": ", ".join(about["results"]) or "-",
                "question": about["question"],
            }
            for about in found
        ]
    )


def find() -> dict[str, Path]:
    """The experiments below the current folder, by name.

    Raises:
      ValueError: If there are none.
    """
    paths = sorted(_FOLDER.glob("[!_]*.py"))
    if not paths:
        raise ValueError(
            f"no experiments in {_FOLDER.resolve()}: go to the folder that holds "
            "experiments/, such as a clone of the repository"
        )
    return {path.stem: path for path in paths}


def _describe(path: Path) -> dict[str, Any]:
    """What its source says, without running it, and the tables it has."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise ValueError(f"{path} is not Python: {error}") from error
    docstring = ast.get_docstring(tree) or ""
    folder = RESULTS / path.stem
    return {
        "name": path.stem,
        "question": docstring.partition("\n")[0],
        "configurations": _configurations(tree),
        "results": {
            # As `lab.command.parse` has it, the paper's results are at the top.
            "paper" if table.parent == folder else table.parent.name: str(table)
            for table in sorted(folder.rglob("table.csv"))
        },
    }


def _configurations(tree: ast.Module) -> list[str]:
    """The keys of the module's CONFIGS, as far as they are written out."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        if "CONFIGS" in names and isinstance(node, ast.Assign | ast.AnnAssign):
            keys = node.value.keys if isinstance(node.value, ast.Dict) else []
            return [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    return []
