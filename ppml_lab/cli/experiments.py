"""`list`: the experiments of this folder, and their results."""

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
      as_json: Print one JSON array; `results` has the paths of tables by configuration.

    Raises:
      ValueError: If there are no experiments here, or one does not parse.
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
    """Returns the experiments below the current folder, by name.

    These are the files in experiments/, and files further down that have CONFIGS, such
    as benchmarks.

    Raises:
      ValueError: If there are none, or two with the same name.
    """
    paths = sorted(_FOLDER.glob("[!_]*.py"))
    paths += [
        path for path in sorted(_FOLDER.glob("[!._]*/**/[!_]*.py")) if _is_one(path)
    ]
    if not paths:
        raise ValueError(
            f"no experiments in {_FOLDER.resolve()}; go to the folder that holds "
            "experiments/, such as a clone of the repository"
        )
    found: dict[str, Path] = {}
    for path in paths:
        if found.setdefault(path.stem, path) != path:
            raise ValueError(
                f"{found[path.stem]} and {path} are experiments with the same name, so "
                "that they would share a results folder; rename one"
            )
    return found


def module(path: Path) -> str:
    """Returns the module name of an experiment's file, for `python -m`."""
    return ".".join(path.with_suffix("").parts)


def question(path: Path) -> str:
    """Returns an experiment's question, the first line of its docstring."""
    return (ast.get_docstring(_parsed(path)) or "").partition("\n")[0]


def literal(path: Path, name: str) -> Any:
    """Returns the literal that a file assigns to a name, without running the file; None
    if it assigns nothing.

    Raises:
      ValueError: If the value is computed.
    """
    value = _assigned(_parsed(path), name)
    try:
        return None if value is None else ast.literal_eval(value)
    except ValueError as error:
        raise ValueError(f"{name} of {path} must be a literal: {error}") from error


def tables_of(stem: str) -> dict[str, Path]:
    """Returns the folders of an experiment's tables by configuration, without `smoke`.

    A table of `smoke` only shows that an experiment runs.
    """
    top = RESULTS / stem
    found = {"paper": top} if (top / "table.csv").exists() else {}
    below = sorted(table.parent for table in top.glob("*/table.csv"))
    return found | {path.name: path for path in below if path.name != "smoke"}


def configurations(path: Path) -> list[str]:
    """Returns the names of an experiment's configurations, without running it."""
    return _configurations(_parsed(path)) or []


def _describe(path: Path) -> dict[str, Any]:
    """Returns facts from an experiment's source, without running it, and its tables."""
    folder = RESULTS / path.stem
    return {
        "name": path.stem,
        "question": question(path),
        "configurations": configurations(path),
        "results": {
            # `lab.command.parse` puts the results of "paper" at the top.
            "paper" if table.parent == folder else table.parent.name: str(table)
            for table in sorted(folder.rglob("table.csv"))
        },
    }


def _is_one(path: Path) -> bool:
    """Returns whether a file has CONFIGS.

    Files that do not name CONFIGS are not parsed: workers may be for another Python.
    """
    named = b"CONFIGS" in path.read_bytes()
    return named and _configurations(_parsed(path)) is not None


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise ValueError(f"{path} is not valid Python: {error}") from error


def _configurations(tree: ast.Module) -> list[str] | None:
    """Returns the keys of the module's CONFIGS that are literals; None if it has no
    CONFIGS.
    """
    configs = _assigned(tree, "CONFIGS")
    keys = configs.keys if isinstance(configs, ast.Dict) else []
    names = [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    return None if configs is None else names


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    """Returns the first expression that a module assigns to a name."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        if name in names and isinstance(node, ast.Assign | ast.AnnAssign):
            return node.value
    return None
