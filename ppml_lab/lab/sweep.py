"""The sweep language: which settings a sweep tries, and in which order.

A sweep is a tuple of settings, made by `axis` and its like and combined by `product`,
`zipped` and `chain`. As it is a tuple, a slice or a comprehension thins it out.

    sweep = product(
        axis("mechanism", {"none": NoPrivacy(), "DP": Gaussian(0.3, 1.0)}),
        axis("trainer.optimizer.learning_rate", (0.1, 1.0)),
        seeds(5),
    )
    runs = points(sweep, Federated(), delta=1e-3)

A name is a key path of the setup, "seed", "delta", or "target_epsilon", which
calibrates the noise of each point. Settings apply from the root down, whatever their
order: a part never erases a number that is set inside it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ppml_lab import arguments, checks, shown
from ppml_lab.lab.budget import Noises, calibrated_once, noise_path
from ppml_lab.lab.building import check_numbers
from ppml_lab.lab.results import Point
from ppml_lab.lab.setup import OF_A_POINT, check_setup
from ppml_lab.lab.tree import paths
from ppml_lab.lab.tree.fields import is_part
from ppml_lab.lab.tree.identity import check_classes


class Setting(NamedTuple):
    """The changes that one point of a sweep makes to a setup."""

    fields: Mapping[str, Any]
    """New values by key path; the key path "" sets a whole setup."""
    columns: Mapping[str, Any]
    """The table's columns and what they show for this setting."""

    def __repr__(self) -> str:
        return shown.record("Setting", self.columns or self.fields)


Sweep: TypeAlias = tuple[Setting, ...]


@arguments.checked
def axis(
    name: str, values: Iterable[Any] | Mapping[Any, Any], *, column: str = ""
) -> Sweep:
    """Returns one setting for each value at a key path.

    Args:
      name: The key path, such as "mechanism.clip_norm".
      values: Values of the field: numbers, or parts. Parts need labels, the keys of a
        mapping, which the table shows, such as `{"none": NoPrivacy()}`.
      column: The table's column; the key path if it is empty.

    Raises:
      ValueError: For no values, or parts without labels; `points`, for a key path that
        the setup does not have (the nearest is suggested).
      TypeError: `points`, for a value that the field cannot hold.
    """
    if not name:
        raise ValueError("name must be a key path; for whole setups use variants")
    return _some(name, _settings(name, values, column or name))


def _settings(path: str, values: Any, column: str) -> list[Setting]:
    if isinstance(values, str):
        raise ValueError(
            f"values of '{path}' must be a sequence of values, got the string "
            f"{values!r}"
        )
    if isinstance(values, Mapping):
        return [Setting({path: v}, {column: _plain(k)}) for k, v in values.items()]
    values = list(values)
    for value in values:
        held = value if isinstance(value, tuple) else (value,)
        if any(map(is_part, held)):
            first = next(one for one in held if is_part(one))
            label = type(first).__name__
            raise ValueError(
                f"values of '{path}' are parts, which need labels; give a mapping, "
                f"such as {{'{label}': {label}(...)}}"
            )
    return [Setting({path: v}, {column: _plain(v)}) for v in values]


def _plain(value: Any) -> Any:
    """Returns a NumPy scalar as a Python one, and anything else unchanged."""
    is_plain = isinstance(value, np.number | np.bool_ | np.str_)
    return value.item() if is_plain else value


@arguments.checked
def seeds(count: int) -> Sweep:
    """Returns settings for the seeds 0 to `count - 1`.

    Every method of a product gets the same seeds. Runs of one seed that promise no
    privacy have the same initial parameters, cohorts and batches: their differences at
    a seed are paired. Private runs share none of these, because noise and cohorts that
    two runs share could be cancelled (`results.key_identity`): compare private runs as
    independent.
    """
    checks.at_least("count: the number of seeds", count, 1)
    return axis("seed", range(count))


@arguments.checked
def uniform(
    name: str, low: float, high: float, count: int, seed: int, *, column: str = ""
) -> Sweep:
    """Returns `count` random values of a field, uniform in [low, high).

    The values depend on `seed` and `name` alone: draws of two fields are independent
    even with the same seed, and a larger `count` begins with the same values. For
    random search, combine the draws of several fields by `zipped`.
    """
    return axis(name, _draws(name, low, high, count, seed), column=column)


@arguments.checked
def log_uniform(
    name: str, low: float, high: float, count: int, seed: int, *, column: str = ""
) -> Sweep:
    """Returns `count` random values whose logarithm is uniform; see `uniform`."""
    checks.positive(f"low of {name}", low)
    checks.positive(f"high of {name}", high)
    logs = _draws(name, math.log(low), math.log(high), count, seed)
    return axis(name, [math.exp(value) for value in logs.tolist()], column=column)


def _draws(name: str, low: float, high: float, count: int, seed: int) -> np.ndarray:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name} needs finite low < high, got {low} and {high}")
    checks.at_least(f"count: the number of draws of {name}", count, 1)
    checks.at_least("seed", seed, 0)
    generator = np.random.default_rng([seed, *name.encode()])
    return generator.uniform(low, high, count)


@arguments.checked
def variants(column: str, choices: Mapping[Any, Any]) -> Sweep:
    """Returns one setting for each named choice: a whole setup, or values of fields.

    The table shows the name alone, in a column that is no field.

    Args:
      column: The column's name.
      choices: Choices by the name that the column shows. A choice is a setup of any
        class, or a mapping from key paths to values.

    Raises:
      ValueError: For no choices, or a column without a name.
    """
    if not column:
        raise ValueError("column must be a name for the table's header, got ''")
    settings = []
    for name, choice in choices.items():
        fields = {"": choice} if is_part(choice) else choice
        if not isinstance(fields, Mapping):
            raise ValueError(
                f"choices: '{name}' must be a setup, or a mapping from key paths to "
                f"values, got {choice!r}"
            )
        settings.append(Setting(dict(fields), {column: _plain(name)}))
    return _some(column, settings)


@arguments.checked
def hidden(sweep: Sweep) -> Sweep:
    """Returns the same settings without columns in the table."""
    return tuple(setting._replace(columns={}) for setting in sweep)


@arguments.checked
def product(*sweeps: Sweep) -> Sweep:
    """Returns every combination of settings; the last sweep varies fastest.

    Raises:
      ValueError: If two sweeps set the same field.
    """
    return tuple(map(_together, itertools.product(*sweeps)))


@arguments.checked
def zipped(*sweeps: Sweep) -> Sweep:
    """Combines the first settings of all sweeps, then the second ones, and so on.

    Raises:
      ValueError: If lengths differ, or two sweeps set the same field.
    """
    lengths = [len(sweep) for sweep in sweeps]
    if len(set(lengths)) > 1:
        raise ValueError(f"zipped sweeps must have the same length, got {lengths}")
    return tuple(map(_together, zip(*sweeps, strict=True)))


@arguments.checked
def chain(*sweeps: Sweep) -> Sweep:
    """Returns one sweep after the other; they need not set the same fields."""
    return tuple(itertools.chain(*sweeps))


@arguments.checked
def points(sweep: Sweep, setup: Any = None, delta: float | None = None) -> list[Point]:
    """Returns the points of a sweep, in its order.

    Labels come in the order of the sweep's columns, except the seed, which is always
    last. Where one sweep of a chain does not set a column of another, the label is the
    point's value at that key path, or None if the setup has no such field.

    A point that several sweeps of a chain share comes once, at its first place: its run
    is made once, and a second row would count it twice in every mean.

    Args:
      sweep: The settings that make the points.
      setup: The setup that settings change; not needed where `variants` gives whole
        setups.
      delta: The delta at which epsilon is stated, and at which a target_epsilon of the
        sweep is met.

    Raises:
      ValueError: For a key path that does not exist, a number swept in data, schedule
        or layout, numbers with which no run can be built, two classes of parts with one
        name, or a target_epsilon that has no delta or cannot be reached (a point
        without noise included).
      TypeError: For a value that a field cannot hold.
      FileNotFoundError: If files of the data are missing; says where to put them.
    """
    if not sweep:
        raise ValueError(
            "sweep has no settings, so that nothing would run; add at least one"
        )
    if delta is not None:
        checks.probability("delta", delta, allow_one=False)
    noisy: Noises = {}
    names = dict.fromkeys(name for setting in sweep for name in setting.columns)
    names = sorted(names, key=lambda name: name == "seed")
    found: dict[Any, Point] = {}
    for setting in sweep:
        point = _point(setting.fields, setup, delta, noisy)
        point = point._replace(labels=_labels(setting, point, names))
        which = (*point[:2], point.delta, *point.labels.values())
        found.setdefault(which, point)
    check_classes({point.setup for point in found.values()})
    return list(found.values())


def _point(
    fields: Mapping[str, Any], setup: Any, delta: float | None, noisy: Noises
) -> Point:
    """Returns the point of a setting, without labels."""
    # Fields nearer to the root come first.
    order = sorted(fields, key=lambda path: path.count(".") + bool(path))
    for path in order:
        if path in OF_A_POINT:
            continue
        if setup is None and path:
            raise ValueError(
                f"'{path}' is a field of a setup, but there is none; give points a "
                "setup"
            )
        if path.split(".")[0] == "layout":
            raise ValueError(
                f"the sweep sets {path}, which changes no result, so that all runs "
                f"would be the same; set {path} in the setup"
            )
        setup = paths.replaced(setup, path, fields[path])
    check_setup(setup)
    seed, delta = fields.get("seed", 0), fields.get("delta", delta)
    check_seed(seed)
    if delta is not None:
        checks.probability("delta", delta, allow_one=False)
    target = fields.get("target_epsilon")
    if target is not None:
        path = noise_path(setup)
        if path in fields:
            raise ValueError(
                f"target_epsilon {target} sets {path}, but the sweep also sets {path} "
                f"to {fields[path]}; sweep only one of them"
            )
        if delta is None:
            raise ValueError(
                f"target_epsilon {target} needs a delta; give points a delta"
            )
        setup = calibrated_once(setup, target, delta, noisy)
    swept = frozenset(path for path in fields if path and path not in OF_A_POINT)
    check_numbers(setup, delta, swept)
    return Point(setup, int(seed), {}, delta, swept)


def check_seed(seed: Any) -> None:
    """Raises ValueError unless `seed` is a whole number from 0 to 2^32 - 1."""
    is_whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not is_whole or not 0 <= int(seed) < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to 2^32 - 1, got {seed}")


def _labels(setting: Setting, point: Point, names: Iterable[str]) -> dict[str, Any]:
    own = {"seed": point.seed, "delta": point.delta}

    def elsewhere(name: str) -> Any:
        value = paths.value_at(point.setup, name)
        return type(value).__name__ if is_part(value) else value

    return {
        name: setting.columns[name]
        if name in setting.columns
        else own.get(name, elsewhere(name))
        for name in names
    }


def _together(settings: tuple[Setting, ...]) -> Setting:
    return Setting(
        _union([setting.fields for setting in settings]),
        _union([setting.columns for setting in settings]),
    )


def _union(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = Counter(name for part in parts for name in part)
    twice = [name for name, number in names.items() if number > 1]
    if twice:
        raise ValueError(
            f"two of the combined sweeps set '{twice[0]}'; set it in only one of them"
        )
    return {name: value for part in parts for name, value in part.items()}


def _some(name: str, settings: list[Setting]) -> Sweep:
    if not settings:
        raise ValueError(f"'{name}' has no values; give at least one")
    return tuple(settings)
