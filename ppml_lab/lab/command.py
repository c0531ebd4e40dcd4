"""A configuration's command line: key paths are flags, parts are chosen by name.

A stock part is a choice for every field annotated by a protocol that it serves. A
researcher's own part is a choice for a field if one of the configurations holds it
there.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import operator
import shlex
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from ppml_lab.lab import stopping
from ppml_lab.lab.disk.provenance import named
from ppml_lab.lab.tree.fields import fields_of, is_part_class, members, parts_in

C = TypeVar("C", bound=Any)

Choices = Mapping[Any, Sequence[type]]
"""The stock parts that serve each protocol, by protocol."""

SWEEP_OPTIONS = (
    (
        "shard",
        Annotated[
            str | None,
            tyro.conf.arg(
                help="Run only part i of n, given as i/n; by default, the part of this "
                "task of a SLURM array."
            ),
        ],
        None,
    ),
    (
        "merge",
        Annotated[
            bool,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.arg(
                help="Train nothing; write the table from the runs of all shards."
            ),
        ],
        False,
    ),
    (
        "again",
        Annotated[
            bool,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.arg(
                help="Rerun finished runs that other code made, or that lack the "
                "parameters that --keep asks for."
            ),
        ],
        False,
    ),
    (
        "go_on",
        Annotated[
            bool,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.arg(help="Continue unfinished runs that other code began."),
        ],
        False,
    ),
    (
        "stop_after",
        Annotated[
            str | None,
            tyro.conf.arg(
                help="Stop after the first chunk that ends later than this time, such "
                f"as 3h or 1h30m; exit code {stopping.EXIT_CODE}, as after SIGTERM."
            ),
        ],
        None,
    ),
    (
        "keep",
        Annotated[
            Literal["last", "best"] | None,
            tyro.conf.arg(
                help="Keep each run's parameters: those of its last round, or of its "
                "best evaluation by the schedule's metric on validation rows."
            ),
        ],
        None,
    ),
)
"""Options for how a sweep is run: name, type and default."""

_OUT = tyro.conf.arg(help="Folder of the results.")
_FOLDER = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="PATH",
    instance_from_str=lambda texts: named(texts[0]),
    is_instance=lambda value: isinstance(value, Path),
    str_from_instance=lambda folder: [str(folder)],
)


def parse(
    stem: str,
    description: str,
    configs: Mapping[str, C],
    options: Sequence[tuple[str, Any, Any]] = (),
    choices: Choices | None = None,
) -> Any:
    """Returns what the command line says, by name: config, out and the options.

    Args:
      stem: The experiment's name.
      description: The text that `--help` shows.
      configs: Dataclasses or parts by name; the first argument chooses one, flags
        override its fields.
      options: Further options, each a name, a type and a default.
      choices: The stock parts.

    Raises:
      ValueError: For no stem or no configurations, or two parts with the same name to
        choose from.
    """
    if not stem:
        raise ValueError("stem must name the experiment, got ''")
    if not configs:
        raise ValueError("configs has no configuration; give one, such as 'paper'")
    prog = _command() or f"python -m experiments.{stem}"
    name, arguments = _named(prog, description, configs, sys.argv[1:])
    results = Path("results") / stem
    kind = type(configs[name])
    invocation = dataclasses.make_dataclass(
        "Invocation",
        # Without a prefix, the configuration's fields are the command's options.
        [
            ("config", Annotated[kind, tyro.conf.arg(name="")]),
            ("out", Annotated[Path, _FOLDER, _OUT]),
            *((option, annotation) for option, annotation, _ in options),
        ],
        frozen=True,
    )
    registry = tyro.constructors.ConstructorRegistry()
    table = _table(configs, choices or {})
    registry.struct_rule(functools.partial(_struct, table, invocation))
    return tyro.cli(
        invocation,
        prog=f"{prog} {name}",
        description=description,
        args=arguments,
        default=invocation(
            configs[name],
            results if name == "paper" else results / name,
            *(default for *_, default in options),
        ),
        config=(tyro.conf.CascadeSubcommandArgs,),
        registry=registry,
    )


def _command() -> str | None:
    """Returns the command that started the program; None at a prompt."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    if file is None:
        return None
    path, here = Path(file).absolute(), Path.cwd()
    inside = path.is_relative_to(here)
    return f"python {shlex.quote(str(path.relative_to(here) if inside else path))}"


def again(without: Mapping[str, bool] | None = None) -> str | None:
    """Returns the shell command that started this program; None if there was none.

    Args:
      without: Options to leave out, and whether a value follows each of them.
    """
    started, kept = _command(), []
    given = iter(sys.argv[1:])
    for text in given:
        name, is_set, _ = text.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        has_value = (without or {}).get(name) if text.startswith("--") else None
        if has_value is None:
            kept.append(text)
        elif has_value and not is_set:
            next(given, None)
    return started and shlex.join([*shlex.split(started), *kept])


def _named(
    prog: str, description: str, configs: Mapping[str, Any], arguments: Sequence[str]
) -> tuple[str, list[str]]:
    """Returns the configuration that is named first, and the arguments after it."""
    names = "{" + ",".join(configs) + "}"
    if arguments and arguments[0] in configs:
        return arguments[0], [*arguments[1:]]
    usage = f"usage: {prog} {names} [OPTIONS]"
    if arguments and arguments[0] in ("-h", "--help"):
        print(f"{usage}\n\n{inspect.cleandoc(description)}\n")
        print(f"{prog} NAME --help shows the options of a configuration.")
        sys.exit(0)
    said = "name one of these configurations"
    if arguments:
        said = f"'{arguments[0]}' is not one of these configurations"
    print(f"{usage}\nerror: {said}", file=sys.stderr)
    sys.exit(2)


def _table(configs: Mapping[str, Any], choices: Choices) -> _Table:
    """Returns the classes of parts that each field of each class may hold."""
    own: dict[tuple[type, str], list[type]] = {}
    for config in configs.values():
        for owner, name, held in _held(config):
            own.setdefault((owner, name), []).append(type(held))
    return _Table(own, choices)


class _Table(dict):
    """Classes of parts by field; a field without own classes has the stock ones."""

    def __init__(self, own: dict[tuple[type, str], list[type]], choices: Choices):
        """Takes the configurations' own classes, and the stock choices."""
        super().__init__(own)
        self.choices = choices

    def at(self, cls: type, name: str, kind: Any) -> list[type]:
        """Returns all classes for a field, those of the annotation's protocols first.

        A part that wraps another of its kind holds plain parts, unless a configuration
        puts others there.
        """
        stock = self._stock(kind)
        if cls in stock:
            stock = [choice for choice in stock if not self._is_around(choice)]
        return list(dict.fromkeys([*stock, *self.get((cls, name), [])]))

    def _is_around(self, cls: type) -> bool:
        """Returns whether a part wraps parts of its own kind."""
        return any(cls in self._stock(kind) for kind in fields_of(cls).values())

    def _stock(self, kind: Any) -> list[type]:
        inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
        return [c for m in members(inner) for c in _stock(m, self.choices)]


def _stock(kind: Any, choices: Choices) -> Sequence[type]:
    try:
        return choices.get(kind, ())
    except TypeError:  # not hashable, and no protocol
        return ()


def _held(config: Any) -> Iterator[tuple[type, str, Any]]:
    """Yields every part below a configuration, with the class and field that hold
    it.
    """
    if not dataclasses.is_dataclass(config):
        return
    for field in dataclasses.fields(config):
        for _, inner in parts_in(getattr(config, field.name)):
            yield type(config), field.name, inner
            yield from _held(inner)


def _struct(table: _Table, invocation: type, info: Any) -> Any:
    """Returns tyro's specification of a class: its fields, and what each may hold."""
    cls = info.type
    is_record = isinstance(cls, type) and dataclasses.is_dataclass(cls)
    if not is_record or cls is invocation:
        return None
    specs = []
    is_part = is_part_class(cls)
    kinds = fields_of(cls) if is_part else get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        given = getattr(info.default, field.name, field.default)
        if given is dataclasses.MISSING and field.default_factory is not (
            dataclasses.MISSING
        ):
            given = field.default_factory()
        given = tyro.MISSING_NONPROP if given is dataclasses.MISSING else given
        kind = kinds[field.name]
        kind = _widened(kind, table.at(cls, field.name, kind), given)
        specs.append(
            tyro.constructors.StructFieldSpec(
                field.name, kind, given, _help(cls, field.name)
            )
        )
    return tyro.constructors.StructConstructorSpec(cls, tuple(specs))


def _widened(kind: Any, classes: list[type], given: Any) -> Any:
    """Returns an annotation as a union of the classes that a field may hold."""
    if not classes:
        return kind
    if get_origin(kind) is tuple:
        # The length is fixed: flags reach each part of the tuple.
        held: Any = tuple(type(one) for one in given)
        return types.GenericAlias(tuple, held) if held else kind
    plain = [m for m in members(kind) if not getattr(m, "_is_protocol", False)]
    together = tuple(dict.fromkeys([*plain, *classes]))
    names = [getattr(choice, "__name__", str(choice)) for choice in together]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two parts to choose from are called {name}; rename your own"
            )
    return functools.reduce(operator.or_, together)


def _help(cls: type, name: str) -> str | None:
    """Returns the docstring below a field, where the source can be read."""
    for owner in cls.__mro__:
        found = _docs(owner).get(name)
        if found:
            return found
    return None


@functools.cache
def _docs(cls: type) -> Mapping[str, str]:
    """Returns the docstrings below a class's own fields."""
    try:
        tree: Any = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        body = tree.body[0].body
    except (OSError, TypeError, SyntaxError, IndexError):
        return {}
    found = {}
    for line, after in itertools.pairwise(body):
        text = getattr(getattr(after, "value", None), "value", None)
        target = getattr(line, "target", None)
        if isinstance(target, ast.Name) and isinstance(text, str):
            found[target.id] = inspect.cleandoc(text)
    return found
