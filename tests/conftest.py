"""How the tests run: 4 CPU devices, strict types, annotations checked, shared data.

What concerns jax's start has to happen before jax is first imported.
"""

# ruff: noqa: E402
import collections
import ctypes
import gc
import os
import sys
import types
import typing
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import settings

jax.config.update("jax_numpy_dtype_promotion", "strict")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    jax.config.update("jax_compilation_cache_dir", str(home / "ppml_lab" / "tests"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

settings.register_profile("thorough", max_examples=400)

# Annotations are meant to be true: in the tests beartype checks them on every call. An
# inner function is made anew at each call of the outer one: the first few are checked.
made: collections.Counter = collections.Counter()
every_function = jaxtyping.jaxtyped


def check_annotations(function: typing.Callable) -> typing.Callable:
    """Beartype, to which an int is a float, as PEP 484 has it."""
    return beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))(function)


def the_first_few(*, typechecker: typing.Any) -> typing.Callable:
    """What jaxtyping's import hook decorates every function and class with."""

    def decorate(function: typing.Any) -> typing.Any:
        code = getattr(function, "__code__", None)
        made[code] += 1
        if code is not None and made[code] > 3:
            return function
        return every_function(function, typechecker=typechecker)

    return decorate


sys.modules["checked"] = types.ModuleType("checked")
vars(sys.modules["checked"])["check_annotations"] = check_annotations
vars(jaxtyping)["jaxtyped"] = the_first_few
jaxtyping.install_import_hook("ppml_lab", "checked.check_annotations")

from ppml_lab import base, data

ROOM = 900 << 20
"""Bytes that a worker may hold before it forgets what it has compiled."""


def resident() -> int:
    """Bytes of memory that this process holds; where nothing tells them, too many."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return ROOM
    return pages * os.sysconf("SC_PAGE_SIZE")


# Tracing makes many objects, and looking for cycles among all of them takes long.
gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of parametrizations that are stacked, enough are quick that every value occurs:
    the other combinations are exhaustive.
    """
    functions: dict[str, list[tuple[pytest.Item, set[tuple[int, str]]]]] = {}
    for item in items:
        values = getattr(getattr(item, "callspec", None), "_idlist", ())
        if len(values) > 1 and item.get_closest_marker("exhaustive") is None:
            name = item.nodeid.partition("[")[0]
            functions.setdefault(name, []).append((item, {*enumerate(values)}))
    for combinations in functions.values():
        left, seen = [*combinations], set[tuple[int, str]]()
        while any(values - seen for _, values in left):
            best = max(left, key=lambda one: len(one[1] - seen))
            left.remove(best)
            seen |= best[1]
        for item, _ in left:
            item.add_marker(pytest.mark.exhaustive)


def pytest_collection_finish() -> None:
    """What is imported stays: nobody has to look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module() -> typing.Iterator[None]:
    """A worker's memory does not fill with the compiled programs of every module."""
    yield
    if resident() < ROOM:
        return
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


@pytest.fixture
def as_users_call() -> typing.Iterator[None]:
    """Nobody but the tests checks annotations on every call."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def clients() -> base.Clients:
    """Five clients with 5, 1, 3, 7 and 2 examples of a noisy linear function."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(5), [5, 1, 3, 7, 2])
    x = rng.normal(size=(18, 2)).astype(np.float32)
    y = (x @ [1.0, -2.0] + 0.5 + 0.1 * rng.normal(size=18)).astype(np.float32)
    return data.federate({"x": x, "y": y}, owners)


@pytest.fixture(scope="session")
def regression() -> base.Task:
    """Least squares; its gradient at an example is `residual * (x, 1)`."""

    def init(key: base.Key) -> dict[str, jax.Array]:
        return {"w": 0.1 * jax.random.normal(key, (2,)), "b": jnp.float32(0)}

    def residual(params: typing.Any, examples: typing.Any) -> jax.Array:
        return examples["x"] @ params["w"] + params["b"] - examples["y"]

    def loss(key: base.Key, params: typing.Any, examples: typing.Any) -> jax.Array:
        return 0.5 * residual(params, examples) ** 2

    def evaluate(params: typing.Any, examples: typing.Any) -> dict[str, jax.Array]:
        return {"squared": residual(params, examples) ** 2}

    return base.Task(init, loss, evaluate)


class CompileCounter:
    """Counts what jax traced and compiled since `reset`."""

    def __init__(self) -> None:
        self.compilations = 0

    def __call__(self, event: str, duration_secs: float, **kwargs: int | str) -> None:
        self.compilations += event == "/jax/core/compile/backend_compile_duration"

    def reset(self) -> None:
        self.compilations = 0


@pytest.fixture
def compile_counter() -> typing.Iterator[CompileCounter]:
    """Its `compilations` are the programs that jax compiled (or loaded) since then."""
    counter = CompileCounter()
    jax.monitoring.register_event_duration_secs_listener(counter)
    yield counter
    jax.monitoring.unregister_event_duration_listener(counter)
