"""The house rules: who imports whom, what stays lazy, how long a file may be."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import ppml_lab

PACKAGE = Path(ppml_lab.__file__).parent
ROOT = PACKAGE.parent
BOTTOM = {
    *("arguments", "base", "checks", "guards", "pairs", "random", "tables", "target"),
    *("shown", "trees", "units"),
}
PATTERNS = {"data", "models", "dp", "smpc"}
MIDDLE = BOTTOM | PATTERNS | {"federated"}
MAY_IMPORT = {
    "arguments": BOTTOM,
    "base": {"shown"},
    "checks": BOTTOM,
    "guards": BOTTOM,
    "pairs": BOTTOM,
    "random": BOTTOM,
    "tables": BOTTOM,
    "target": set(),
    "units": set(),
    "shown": set(),
    "trees": BOTTOM,
    **{pattern: BOTTOM | {pattern} for pattern in PATTERNS},
    "federated": MIDDLE,
    "audit": MIDDLE | {"audit", "lab"},
    "lab": MIDDLE | {"audit", "lab"},
    "cli": MIDDLE | {"audit", "lab", "cli"},
}
"""DESIGN.md, "Who may import whom". `__main__` may import all."""


def sources(folder):
    return sorted(folder.rglob("*.py")) if folder.exists() else []


def imports(source, outside_functions=False):
    """The dotted names that a file imports, from inside functions too."""
    tree = ast.parse(source)
    if outside_functions:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "import from ppml_lab by its name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layers(source):
    """Which parts of ppml_lab a file imports."""
    names = [name.split(".") for name in imports(source)]
    return {parts[1] for parts in names if parts[0] == "ppml_lab" and len(parts) > 1}


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sources(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_a_file_imports_only_from_below(path):
    part = part_of(path)
    if part == "__main__":
        return
    if part == "__init__":
        assert not layers(path.read_text())
        return
    assert part in MAY_IMPORT, f"{part} has no place in the import order yet"
    too_high = layers(path.read_text()) - MAY_IMPORT[part]
    assert not too_high, f"{path.name} belongs to {part}, which may not import them"


def test_the_reader_of_imports_misses_none():
    source = """
from ppml_lab import base, dp
import ppml_lab.smpc.ring as r
def f():
    from ppml_lab.lab.disk.records import run_id
    import dp_accounting.pld
"""
    assert layers(source) == {"base", "dp", "smpc", "lab"}
    assert "dp_accounting.pld" in imports(source)
    assert "dp_accounting.pld" not in imports(source, outside_functions=True)


def test_the_two_houses_of_smpc_stand_apart_on_common_ground():
    houses = {"aggregation", "computing"}

    def used(path):
        names = [name.split(".") for name in imports(path.read_text())]
        return {p[2] for p in names if p[:2] == ["ppml_lab", "smpc"] and len(p) > 2}

    smpc = PACKAGE / "smpc"
    for house in houses:
        for path in sources(smpc / house):
            assert not used(path) & (houses - {house}), path
    for path in smpc.glob("*.py"):
        assert path.name == "__init__.py" or not used(path) & houses, path


LAB = PACKAGE / "lab"


def used_of_lab(path):
    """The dotted modules of lab that a file imports, from inside functions too."""
    found = set()
    for name in imports(path.read_text()):
        steps = name.split(".")
        if steps[:2] == ["ppml_lab", "lab"]:
            # The last step may be a name in a module.
            whole = ROOT.joinpath(*steps)
            is_module = whole.with_suffix(".py").exists() or whole.is_dir()
            found.add(name if is_module else name.rpartition(".")[0])
    return found


def test_no_two_files_of_the_lab_import_each_other_in_a_circle():
    graph = {}
    for path in sources(LAB):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        graph[module.removesuffix(".__init__")] = used_of_lab(path)
    order = [*graphlib.TopologicalSorter(graph).static_order()]
    assert set(order) == set(graph)


def test_a_tree_of_parts_knows_no_lab_and_the_engine_knows_no_stock_part():
    for path in sources(LAB / "tree"):
        assert all(".tree." in name for name in used_of_lab(path)), path
    for path in sources(LAB / "disk"):
        used = {name for name in used_of_lab(path) if ".disk" not in name}
        assert used <= {"ppml_lab.lab.processes"}, path
    for path in LAB.glob("*.py"):
        knows = any(name.startswith("ppml_lab.lab.parts") for name in used_of_lab(path))
        # The command line offers stock parts by name.
        assert knows == (path.name in ("__init__.py", "run.py")), path


def top_levels(path, **how):
    return {name.split(".")[0] for name in imports(path.read_text(), **how)}


@pytest.mark.parametrize(
    "path", sources(ROOT / "paper_figures"), ids=lambda path: path.name
)
def test_figures_need_neither_jax_nor_the_lab(path):
    ours_and_heavy = top_levels(path) - set(sys.stdlib_module_names)
    assert ours_and_heavy <= {"numpy", "matplotlib", "paper_figures"}


BENCHMARKS = ROOT / "experiments" / "benchmarks"


@pytest.mark.parametrize(
    "path",
    [BENCHMARKS / "bench.py", *sorted(BENCHMARKS.glob("*_workers/work.py"))],
    ids=lambda path: path.parent.name,
)
def test_what_workers_share_loads_in_their_own_environments(path):
    needed = top_levels(path, outside_functions=True) - set(sys.stdlib_module_names)
    assert needed <= {"numpy", "experiments"}


def test_nothing_imports_experiments_or_figures_from_below():
    for path in sources(PACKAGE):
        assert not top_levels(path) & {"experiments", "paper_figures", "tests"}
    for path in sources(ROOT / "experiments"):
        assert not top_levels(path) & {"paper_figures", "tests"}


def test_only_functions_import_dp_accounting():
    for path in sources(PACKAGE):
        assert "dp_accounting" not in top_levels(path, outside_functions=True), path
        if part_of(path) not in ("dp", "smpc", "audit"):
            assert "dp_accounting" not in top_levels(path), path


def test_only_functions_import_matplotlib_and_none_its_global_figures():
    for path in sources(PACKAGE):
        assert "matplotlib" not in top_levels(path, outside_functions=True), path
        assert "matplotlib.pyplot" not in imports(path.read_text()), path


def test_training_does_not_load_what_takes_long_and_is_used_late():
    late = ("dp_accounting", "scipy", "sklearn", "orbax.checkpoint", "matplotlib")
    code = (
        "import sys, ppml_lab.federated, ppml_lab.lab; "
        f"sys.exit(not sys.modules.keys().isdisjoint({late}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("path", sources(PACKAGE), ids=lambda path: path.name)
def test_no_file_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400
