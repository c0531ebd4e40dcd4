"""Arguments of other kinds than their annotations say are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Float, Int

from ppml_lab import arguments, base


@arguments.checked
def called(
    whole: int = 1,
    real: float = 1.0,
    text: str = "",
    flag: bool = False,
    maybe: int | None = None,
    way: Literal["up", "down"] = "up",
    function: Callable[..., Any] = print,
    names: Sequence[str] = (),
    several: Iterable[int] = (),
    table: Mapping[str, int] | None = None,
    scores: Float[np.ndarray, " n"] | None = None,
    places: Int[np.ndarray, "n 2"] | None = None,
    key: base.Key | None = None,
    folder: Path = Path(),
    also: str | Path = Path(),
    task: base.Task | None = None,
    anything: Any = None,
) -> dict[str, Any]:
    return locals()


call: Any = called
"""For arguments that are wrong."""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("whole", 1.0, "a 64-bit integer, got 1.0"),
        ("whole", True, "a 64-bit integer"),
        ("whole", 2**63, "a 64-bit integer"),
        ("whole", np.ones(1, int), "a 64-bit integer"),
        ("real", "1", "a number, got '1'"),
        ("real", 10**400, "a number, got 1000"),
        ("real", 1j, "a number"),
        ("text", b"1", "a string"),
        ("flag", 1, "True or False"),
        ("maybe", "1", "a 64-bit integer or None"),
        ("way", "left", "'up' or 'down'"),
        ("function", 0.1, "a function"),
        ("names", "ab", "a sequence whose items are each a string, got 'ab'"),
        ("names", [1], "a sequence whose items are each a string"),
        (
            "several",
            [1.5],
            r"an iterable \(not a string\) whose items are each a 64-bit integer",
        ),
        ("table", [1], "a mapping or None"),
        ("scores", np.zeros((2, 2)), r"an array \[n\] of kind float"),
        ("scores", ["a"], r"an array \[n\]"),
        ("places", np.zeros((2, 2)), r"an array \[n, 2\] of kind int"),
        ("key", np.zeros(2, np.uint32), r"a typed key.* jax.random.key\(seed\) makes"),
        ("folder", "", "the path of a file or folder, got ''"),
        ("folder", b"x", "the path of a file or folder"),
        ("also", " ", r"the path of a file or folder, got ' '"),
        ("task", print, "a Task or None, got .*; make one with models"),
    ],
)
def test_what_is_of_another_kind_is_refused_by_name(name, value, words):
    with pytest.raises(ValueError, match=f"^{name} must be {words}"):
        call(**{name: value})


def test_numbers_and_arrays_are_those_of_the_annotation():
    given = call(np.int32(3), np.float32(0.5), scores=[1, 2], places=[[1, 2]])
    assert (type(given["whole"]), type(given["real"])) == (int, float)
    assert given["scores"].dtype == np.float64
    assert given["places"].dtype == np.int64
    assert called(real=3)["real"] == 3
    paths = call(folder="a/b", also="c")
    assert (paths["folder"], paths["also"]) == (Path("a/b"), Path("c"))
    assert np.isnan(called(real=float("nan"))["real"])


def test_an_iterator_is_left_to_the_function():
    assert [*called(several=iter([1, 2]))["several"]] == [1, 2]


def test_traced_values_pass():
    def traced(value):
        assert called(whole=value)["whole"] is value
        return value

    jax.jit(traced)(jnp.float32(1.5))


def test_python_itself_says_what_is_missing():
    with pytest.raises(TypeError, match="unexpected keyword argument 'wohle'"):
        call(wohle=1)
