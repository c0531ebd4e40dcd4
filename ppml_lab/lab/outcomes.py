"""The outcomes of a sweep, as a list with a table."""

from __future__ import annotations

from pathlib import Path

from ppml_lab import tables
from ppml_lab.lab.budget import statement
from ppml_lab.lab.columns import completed
from ppml_lab.lab.disk import records
from ppml_lab.lab.results import Outcome, Point, Result


class Outcomes(list[Outcome]):
    """The outcomes of a sweep, in the order of its points."""

    def table(self, *columns: str) -> tables.Table:
        """The rows of all runs, see `Outcome.row`: for a notebook, or `plots.plot`."""
        return tables.Table(outcome.row(*columns) for outcome in self)

    def save(self, path: str | Path | None = None) -> Path:
        """Writes all runs with the lab's columns (`lab.columns`: data set, unit,
        epsilons, bytes) as CSV, for `ppml-lab show`, `plot` and `explore`.

        Args:
          path: The file; by default table.csv in the sweep's folder.

        Returns:
          The file's path.

        Raises:
          ValueError: If there are no runs, or runs have different metrics.
        """
        if not self:
            raise ValueError("there are no runs to save; run a sweep first")
        top = self[0].folder.parents[1]
        rows, results = [], []
        for outcome in self:
            said = records.read_json(outcome.folder / "config.json")
            point = Point(outcome.setup, said["seed"], outcome.labels, said["delta"])
            guarantee = statement(outcome.setup, said["delta"])
            results.append(Result(point, guarantee, outcome))
            rows.append(dict(outcome.row()))
        if len({tuple(row) for row in rows}) > 1:
            raise ValueError(
                "runs have different metrics, which make no table; save those of one "
                "kind, such as lab.Outcomes(runs[:3]).save(path)"
            )
        whole = completed(rows, results, experiment=top.name, command=None)
        file = top / "table.csv" if path is None else Path(path)
        # What is typed in a notebook is no command that makes the runs again.
        records.write_table(file, [row | {"command": None} for row in whole])
        return file

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()
