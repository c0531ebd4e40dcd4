"""First sentences of docstrings stand alone, as `help` shows them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(
    path
    for folder in ("ppml_lab", "experiments", "paper_figures")
    for path in (ROOT / folder).rglob("*.py")
)
CONTINUES = re.compile(r"(As|For|From|In|Of|Which|Whose|With|Without|Whether)\b")
"""How a sentence begins that needs the name above it to be one."""


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", path.stem), text


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_sentences_stand_alone(path: Path) -> None:
    for name, text in docstrings(path):
        first = text.partition("\n\n")[0]
        assert first.endswith("?") or not CONTINUES.match(text), (name, first)
