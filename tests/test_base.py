"""The shared types say what each of their members is."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from ppml_lab import base

SOURCE = Path(base.__file__).read_text()
CLASSES = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.ClassDef)]
MEMBERS = [
    (f"{cls.name}.{line.target.id}", line, after)
    for cls in CLASSES
    for line, after in itertools.pairwise([*cls.body, None])
    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
]


def words(after: ast.AST | None) -> str:
    """The text below a member."""
    text = after.value if isinstance(after, ast.Expr) else None
    return str(text.value) if isinstance(text, ast.Constant) else ""


def num_arguments(annotation: ast.expr) -> int | None:
    """How many a member takes that is a function of stated arguments."""
    for node in ast.walk(annotation):
        is_callable = isinstance(node, ast.Subscript) and (
            ast.unparse(node.value) == "Callable"
        )
        if is_callable and isinstance(node.slice, ast.Tuple):
            arguments = node.slice.elts[0]
            return len(arguments.elts) if isinstance(arguments, ast.List) else None
    return None


@pytest.mark.parametrize(
    ("name", "line", "after"), MEMBERS, ids=[name for name, *_ in MEMBERS]
)
def test_a_member_s_text_stands_below_it_and_names_its_arguments(
    name: str, line: ast.AnnAssign, after: ast.AST | None
) -> None:
    text = words(after)
    assert len(text) > 4, f"{name} has no text"
    count = num_arguments(line.annotation)
    if count is not None:
        found = re.match(r"`\((.*?)\)`: ", text)
        assert found is not None, f"{name}: '{text}' does not open with its arguments"
        assert len([part for part in found[1].split(",") if part]) == count
    if name.rpartition(".")[2].startswith("check"):
        assert "raises" in text
        assert "on the host" in text


def test_they_are_one_short_page() -> None:
    assert len(SOURCE.splitlines()) < 320
    assert all(ast.get_docstring(cls) for cls in CLASSES)
