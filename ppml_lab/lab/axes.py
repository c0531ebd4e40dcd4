"""The sweep language: which settings a sweep tries, and in which order.

A sweep is a tuple of settings, made by `axis` and its like and combined by `product`,
`zipped` and `chain`. As it is a tuple, a slice or a comprehension thins it out.

    sweep = product(
        variants("method", {"plain": {}, "DP": {"privacy": "central"}}),
        axis("learning_rate", (0.1, 1.0)),
        seeds(5),
    )
    runs = points(sweep, Config(), Hyperparams(noise_multiplier=1.0), delta=1e-3)

A name is a field of `Hyperparams` or `Config`, "data." and a field of `DataConfig`,
"seed", "delta", or "target_epsilon", which calibrates the noise of each point.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ppml_lab import arguments, checks
from ppml_lab.lab.budget import Noises, calibrated_once
from ppml_lab.lab.config import Config, Hyperparams
from ppml_lab.lab.fields import TYPES, applied, plain, typed, value_of
from ppml_lab.lab.point import Point


class Setting(NamedTuple):
    """What one point of a sweep changes.

    Attributes:
      fields: New values by name, of the fields' types.
      columns: What the table shows of them, as it was written.
    """

    fields: Mapping[str, Any]
    columns: Mapping[str, Any]


Sweep: TypeAlias = tuple[Setting, ...]


@arguments.checked
def axis(name: str, values: Iterable[Any]) -> Sweep:
    """One setting for each value of a field; the table's column has its name.

    Args:
      name: A field.
      values: Of the field's type; an int may stand for a float.

    Raises:
      ValueError: For an unknown name (the nearest is suggested), a value of another
        type, or no values.
    """
    return _some(name, [_setting({name: v}, name, v) for v in values])


@arguments.checked
def seeds(count: int) -> Sweep:
    """Seeds 0 to `count - 1`.

    Every method of a product gets the same. Runs that promise no privacy have with a
    seed the same initial parameters, cohorts and batches: their differences at a seed
    are paired. Private runs share none of these, for noise and cohorts that two of them
    had in common could be cancelled (`identity.key_identity`): compare them as
    independent runs.
    """
    checks.at_least("count: the number of seeds", count, 1)
    return axis("seed", range(count))


@arguments.checked
def uniform(name: str, low: float, high: float, count: int, seed: int) -> Sweep:
    """`count` draws of a field, uniform in [low, high).

    Draws depend on `seed` and `name` alone: those of two fields are independent even
    with the same seed, and a larger `count` begins with the same values. For random
    search `zipped` takes the draws of several fields.
    """
    _check_bounds(name, low, high)
    return axis(name, _draws(name, low, high, count, seed))


@arguments.checked
def log_uniform(name: str, low: float, high: float, count: int, seed: int) -> Sweep:
    """`count` draws of a field whose logarithm is uniform; see `uniform`."""
    checks.positive(f"low of {name}", low)
    checks.positive(f"high of {name}", high)
    _check_bounds(name, low, high)
    logs = _draws(name, math.log(low), math.log(high), count, seed)
    return axis(name, [math.exp(value) for value in logs.tolist()])


def _check_bounds(name: str, low: float, high: float) -> None:
    """Raises ValueError, naming the bound, unless what lies just inside of both is a
    value of the field: whether the draws are may not depend on the seed.
    """
    checks.known("field", name, TYPES, argument="name")
    for bound, value, other in (("low", low, math.inf), ("high", high, -math.inf)):
        try:
            typed(name, math.nextafter(value, other))
        except ValueError as error:
            raise ValueError(f"{bound} {value}: {error}") from error


def _draws(name: str, low: float, high: float, count: int, seed: int) -> np.ndarray:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name} needs finite low < high, got {low} and {high}")
    checks.at_least(f"count: the number of draws of {name}", count, 1)
    checks.at_least("seed", seed, 0)
    generator = np.random.default_rng([seed, *name.encode()])
    return generator.uniform(low, high, count)


@arguments.checked
def variants(column: str, choices: Mapping[Any, Mapping[str, Any]]) -> Sweep:
    """Named choices, each of which stands for the values of several fields.

    The table shows the name, in a column that is no field, and not the fields.

    Args:
      column: The column's name.
      choices: Fields and their values, by what the column shows.

    Raises:
      ValueError: As `axis`, or if `column` is a field: use `axis` for it, or give the
        column another name.
    """
    if column in TYPES:
        raise ValueError(
            f"the column '{column}' of variants is a field: sweep it with "
            f"axis('{column}', ...), or call the column otherwise"
        )
    if not column:
        raise ValueError("column must be a name for the table's header, got ''")
    if not choices:
        raise ValueError(f"choices: '{column}' has no values: give at least one")
    return _some(
        column,
        [_setting(fields, column, name) for name, fields in choices.items()],
    )


@arguments.checked
def hidden(sweep: Sweep) -> Sweep:
    """The same settings, of which the table shows nothing."""
    return tuple(setting._replace(columns={}) for setting in sweep)


@arguments.checked
def product(*sweeps: Sweep) -> Sweep:
    """Every combination; the last sweep varies fastest.

    Raises:
      ValueError: If two of them set the same field.
    """
    return tuple(map(_together, itertools.product(*sweeps)))


@arguments.checked
def zipped(*sweeps: Sweep) -> Sweep:
    """The first settings of all together, then the second ones, and so on.

    Raises:
      ValueError: If lengths differ, or two sweeps set the same field.
    """
    lengths = [len(sweep) for sweep in sweeps]
    if len(set(lengths)) > 1:
        raise ValueError(f"zipped sweeps must be of one length, got {lengths}")
    return tuple(map(_together, zip(*sweeps, strict=True)))


@arguments.checked
def chain(*sweeps: Sweep) -> Sweep:
    """One sweep after the other; they need not set the same fields."""
    return tuple(itertools.chain(*sweeps))


@arguments.checked
def points(
    sweep: Sweep, config: Config, hyperparams: Hyperparams, delta: float | None = None
) -> list[Point]:
    """The runs of a sweep, in its order.

    Labels come in the order of the sweep's columns, but for the seed, which is last
    however the loops are nested. Where a part of a chain does not set another's column,
    the label is the point's value, or None if the column is no field.

    A point that several parts of a chain have in common comes once, at its first place:
    its run is made once, and a second row would count it twice in every mean.

    Args:
      sweep: What changes from point to point.
      config: What it compiles to where the sweep does not say.
      hyperparams: Numbers where the sweep does not say.
      delta: At which epsilon is stated, and met where the sweep sets target_epsilon.

    Raises:
      ValueError: If a target_epsilon has no delta or cannot be reached, also because
        the point's privacy is "none".

    Warns:
      UserWarning: If the sweep sets a noise_multiplier where privacy is "none".
    """
    if not sweep:
        raise ValueError("sweep has no settings, so that nothing would run: add some")
    if delta is not None:
        checks.probability("delta", delta, allow_one=False)
    _warn_of_idle_noise(sweep, config)
    noisy: Noises = {}
    names = dict.fromkeys(name for setting in sweep for name in setting.columns)
    names = sorted(names, key=lambda name: name == "seed")
    found: dict[Any, Point] = {}
    for setting in sweep:
        point = _point(setting.fields, config, hyperparams, delta, noisy)
        point = point._replace(labels=_labels(setting, point, names))
        which = (*point[:3], point.delta, *point.labels.values())
        found.setdefault(which, point)
    return list(found.values())


def _warn_of_idle_noise(sweep: Sweep, config: Config) -> None:
    """Says that noise which a sweep sets acts nowhere; noise of the numbers that all
    points share, such as those without privacy, needs no word.
    """
    idle = {
        setting.fields["noise_multiplier"]: None
        for setting in sweep
        if setting.fields.get("noise_multiplier")
        and setting.fields.get("privacy", config.privacy) == "none"
    }
    if idle:
        shown = ", ".join(f"{noise:g}" for noise in idle)
        warnings.warn(
            f"noise_multiplier {shown} has no effect with privacy 'none': these runs "
            "are without noise; set their privacy, or leave it out",
            stacklevel=4,
        )


def _point(
    fields: Mapping[str, Any],
    config: Config,
    hyperparams: Hyperparams,
    delta: float | None,
    noisy: Noises,
) -> Point:
    """The point of a setting, without labels."""
    config, rates = applied(fields, config, hyperparams)
    delta = fields.get("delta", delta)
    target = fields.get("target_epsilon")
    if target is not None:
        if "noise_multiplier" in fields:
            raise ValueError(
                f"target_epsilon {target} sets the noise_multiplier, and so does the "
                f"sweep, to {fields['noise_multiplier']}: sweep one of them"
            )
        if delta is None:
            raise ValueError(f"target_epsilon {target} needs a delta: give points one")
        rates = calibrated_once(config, rates, target, delta, noisy)
    return Point(config, rates, fields.get("seed", 0), {}, delta)


def _labels(setting: Setting, point: Point, names: Iterable[str]) -> dict[str, Any]:
    own = {"seed": point.seed, "delta": point.delta}
    return {
        name: setting.columns[name]
        if name in setting.columns
        else own.get(name, value_of(name, point.config, point.hyperparams))
        for name in names
    }


def _setting(fields: Mapping[str, Any], column: str, shown: Any) -> Setting:
    return Setting({k: typed(k, v) for k, v in fields.items()}, {column: plain(shown)})


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
            f"two of the combined sweeps set '{twice[0]}': leave it to one of them"
        )
    return {name: value for part in parts for name, value in part.items()}


def _some(name: str, settings: list[Setting]) -> Sweep:
    if not settings:
        raise ValueError(f"'{name}' has no values: give at least one")
    return tuple(settings)
