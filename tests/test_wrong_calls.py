"""Every wrong call is answered in words: hostile values for every argument of every
builder, one at a time, beside a call that is right.
"""

import importlib
import inspect
import re
import zlib

import pytest

from .wrong_calls import audits, learning, privacy, returned, sums, sweeps
from .wrong_calls.values import HOSTILE, allowed

PACKAGES = {
    "data": learning.DATA,
    "models": learning.MODELS | returned.MODELS,
    "federated": learning.FEDERATED | returned.FEDERATED,
    "lab": sweeps.LAB,
    "dp": privacy.DP | returned.DP,
    "smpc": sums.SMPC | returned.SMPC,
    "audit": audits.AUDIT | returned.AUDIT,
}
CALLS = {
    f"{package}.{name}": call
    for package, calls in PACKAGES.items()
    for name, call in calls.items()
}
EXEMPT = {
    "federated.specs": "maps any pytree to a pytree",
    "lab.chain": "takes any number of sweeps, as do the next two",
    "lab.product": "as chain",
    "lab.zipped": "as chain",
    "lab.part": "decorates a class; what it refuses is in lab/test_part.py",
    "lab.Schedule": "a part, whose fields are swept below",
    "lab.Layout": "as Schedule",
    "lab.Setup": "a protocol",
}
"""Callables of an `__all__` of which not all is called, and why. Beside these, named
tuples are records: what takes them checks them.
"""


pytestmark = pytest.mark.usefixtures("as_users_call")


def fault(call, argument, value):
    """What is wrong with the answer to a hostile value; None if nothing is."""
    wrong = call.arguments | {argument: HOSTILE[value]}
    may_be = value in allowed(call, argument)
    if may_be and not call.runs:
        return None
    try:
        call.function(**wrong)
    except (ValueError, TypeError) as error:
        if re.search(rf"\b{argument}\b", str(error)) or may_be:
            return None
        return f"{argument} = {value} ends in an error without its name: {error}"
    except (Exception, SystemExit) as error:
        return f"{argument} = {value} ends in {type(error).__name__}: {error}"
    return None if may_be else f"{argument} = {value} is accepted"


def field_fault(path, value):
    """What is wrong with the answer to a hostile value of a setup's field: it may be
    taken, where some run can have it, or refused with the field's name.
    """
    try:
        sweeps.swept(path, HOSTILE[value])
    except (TypeError, ValueError) as error:
        # What depends on it may refuse it by a name of its own.
        is_named = re.search(rf"\b({path.split('.')[-1]}|{path})\b", str(error))
        of_kind = path.rpartition(".")[2].split("_")[-1] in str(error)
        return None if is_named or of_kind else f"{path} = {value}: {error}"
    except Exception as error:
        return f"{path} = {value} ends in {type(error).__name__}: {error}"
    is_text = value == "'1'" and path == "schedule.metric"
    return f"{path} = {value} is accepted" if value in NEVER and not is_text else None


NEVER = ("nan", "float32 nan", "1j", "[1]", "{}", "two floats", "2-d", "object")
NEVER += ("10**400", "b'1'", "a date", "'1'", "a function")
"""What no field of a setup of numbers, texts and parts can be."""


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", sweeps.FIELDS)
def test_fields_of_sweeps_have_values_that_some_run_can_have(path):
    faults = [field_fault(path, value) for value in HOSTILE]
    assert not [found for found in faults if found]


def cases(name, part):
    """The hostile calls of one callable, all or a fixed tenth of them."""
    every = [(arg, value) for arg in CALLS[name].arguments for value in HOSTILE]
    return [case for case in every if zlib.crc32(f"{name} {case}".encode()) % 10 < part]


def is_called(package, name):
    value = getattr(importlib.import_module(f"ppml_lab.{package}"), name)
    if inspect.ismodule(value) or not callable(value):
        return True
    is_record = inspect.isclass(value) and issubclass(value, tuple | list | Exception)
    # A name of a type, such as `dp.ClippedGradient`, is called by nobody.
    is_type = not (inspect.isclass(value) or inspect.isfunction(value))
    if is_record or is_type or not inspect.signature(value).parameters:
        return True
    return bool({f"{package}.{name}"} & (CALLS.keys() | EXEMPT.keys()))


def test_everything_that_is_offered_is_called():
    missing = [
        f"{package}.{name}"
        for package in PACKAGES
        for name in importlib.import_module(f"ppml_lab.{package}").__all__
        if not is_called(package, name)
    ]
    assert not missing
    assert len(HOSTILE) >= 20
    assert len(EXEMPT) <= 20
    # Every argument of a function, unless Python itself fills it in.
    left_out = {
        f"{name}({argument})"
        for name, call in CALLS.items()
        if inspect.isfunction(call.function)
        for argument, one in inspect.signature(call.function).parameters.items()
        if argument not in call.arguments and one.kind is not one.VAR_POSITIONAL
    }
    assert not left_out


@pytest.mark.parametrize("name", CALLS)
def test_a_tenth_of_the_wrong_calls(name):
    call = CALLS[name]
    # What is accepted takes time, and is called by the test below.
    wrong = [case for case in cases(name, 1) if case[1] not in allowed(call, case[0])]
    assert not [found for case in wrong if (found := fault(call, *case))]


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls_are_answered_in_words(name):
    call = CALLS[name]
    if call.runs:
        call.function(**call.arguments)
    assert not [found for case in cases(name, 10) if (found := fault(call, *case))]
