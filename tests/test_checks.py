"""Errors for bad arguments name the argument and the fix."""

import fractions

import jax.numpy as jnp
import numpy as np
import pytest

from ppml_lab import checks

CHECKS = {
    "positive": lambda value: checks.positive("size", value),
    "non_negative": lambda value: checks.non_negative("size", value),
    "probability": lambda value: checks.probability("size", value, allow_one=True),
    "at_least": lambda value: checks.at_least("size", value, 1),
    "within": lambda value: checks.within("size", value, 0, 1),
}
NO_NUMBERS = [True, np.True_, jnp.bool_(True), "1", None, [1], np.ones(1), 1j, b"1"]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("value", [*NO_NUMBERS, np.nan, np.inf, -1], ids=repr)
def test_what_is_no_number_is_refused_by_name(check, value):
    with pytest.raises(ValueError, match="size must"):
        CHECKS[check](value)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "value",
    [1, 1.0, np.int8(1), np.float64(1), np.array(1), jnp.bfloat16(1), jnp.int32(1),
     fractions.Fraction(1)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_numbers_of_any_type_pass(check, value):
    CHECKS[check](value)


@pytest.mark.parametrize(
    ("labels", "cure"),
    [
        (np.zeros(4), r"astype\('int32'\)"),
        (np.zeros(4, bool), r"astype\('int32'\)"),
        (np.zeros((4, 1), int), r"\[:, 0\]$"),
        (np.zeros((4, 1)), r"\[:, 0\], as integers"),
        (np.zeros((4, 3)), r"argmax\(axis=1\)"),
        (np.zeros((4, 7), int), "mean over a row's positions"),
        (np.zeros((), int), "each row one label"),
        (np.array(["a", "b"]), "numpy.unique"),
        (np.array(["a", None]), "numpy.unique"),
    ],
    ids=lambda value: getattr(value, "dtype", value),
)
def test_labels_of_other_types_are_refused_with_the_cure(labels, cure):
    with pytest.raises(ValueError, match=f"^y must hold one integer label .*{cure}"):
        checks.integer_labels("y", labels, num_classes=3)
    checks.integer_labels("y", np.zeros(4, np.uint8))
