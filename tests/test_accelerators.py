"""Programs for chips that are not here; with the extra aot, a real one of each."""

import csv
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.benchmarks.accelerators_cells import compiling, programs, targets
from ppml_lab import target

ROOT = Path(__file__).resolve().parents[1]
HAS_WHEELS = importlib.util.find_spec("libtpu") is not None


def start(out, *options):
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.accelerators", "smoke",
         "--out", out, *options],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_programs_are_made_for_the_devices_that_are_said():
    assert target.devices() == jax.devices()
    assert target.platform() == jax.default_backend()
    with target.made_for(jax.devices()[2:3]):
        assert target.devices() == jax.devices()[2:3]
        assert target.platform() == "cpu"
    assert target.devices() == jax.devices()
    with pytest.raises(ValueError, match="others must hold a device, got none"):
        target.made_for([]).__enter__()


@pytest.mark.parametrize("name", targets.NEEDED)
def test_a_description_that_lacks_something_is_refused(tmp_path, name):
    """Without some of it XLA divides by zero, without others it says nothing."""
    text = targets.H200.read_text()
    assert targets.missing(text) == []
    lines = [line for line in text.splitlines() if line.split()[:1] != [f"{name}:"]]
    lines = [line for line in lines if line.split()[:2] != [name, "{"]]
    assert len(lines) == len(text.splitlines()) - 1
    path = tmp_path / "mine.txtpb"
    path.write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=f"mine.txtpb describes a GPU without {name}, so"
    ):
        targets.target_of(str(path))


def test_what_is_no_target_is_refused():
    with pytest.raises(
        ValueError, match="'mi300' must be a TPU topology, such as 'v5e:2x2'"
    ):
        targets.target_of("mi300")


def test_what_is_no_program_is_refused():
    with pytest.raises(
        ValueError, match="program 'FedAvg, Gaussian' must be an algorithm, "
    ):
        programs.prepared("FedAvg, Gaussian")


@pytest.mark.exhaustive  # a search of its own, of which the table shows the result
def test_all_that_go_together_meet_in_a_pair():
    found = [tuple(name.split(", ")) for name in programs.pairs()]
    met = {pair for three in found for pair in itertools.combinations(three, 2)}
    known = programs.ALGORITHMS, programs.MECHANISMS, programs.SUMS
    wanted = {
        pair
        for one, other in itertools.combinations(known, 2)
        for pair in itertools.product(one, other)
    }
    # A client draws its own people, whom neither another's noise nor a pattern counts.
    never = {
        ("ExampleGradients", name)
        for name in (
            *("CorrelatedGaussian", "BandedGaussian"),
            *("LocalGaussian", "LocalLaplace", "RandomisedResponse"),
        )
    }
    assert wanted - met == never


def test_a_compiled_programs_text_is_read():
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct((8, 4), jnp.float64, sharding=sharding)
        summed = jax.jit(lambda x: x.sum(0).astype(jnp.int64)).lower(x).compile()
    found = compiling.read(summed.as_text() or "")
    assert (found["collectives"], found["which"]) == (1, "1 all-reduce")
    assert found["float64"] > 0
    assert found["integers64"] > 0
    assert found["host_calls"] == 0
    like = jax.ShapeDtypeStruct((), jnp.float32)
    called = jax.jit(lambda x: jax.pure_callback(lambda x: x, like, x))
    text = called.lower(jnp.float32(1)).compile().as_text() or ""
    assert compiling.read(text)["host_calls"] == 1


@pytest.mark.skipif(HAS_WHEELS, reason="the extra aot is installed")
@pytest.mark.exhaustive  # a message
def test_without_the_wheels_it_says_which(tmp_path):
    done = start(tmp_path)
    assert done.returncode == 1
    assert "needs jax_plugins.xla_cuda13, which is not installed: pip install" in (
        done.stderr
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not HAS_WHEELS, reason="the extra aot is not installed")
def test_programs_compile_for_both(tmp_path):
    done = start(tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [*csv.DictReader((tmp_path / "table.csv").open())]
    assert {row["compiles"] for row in rows} == {"True"}
    assert {row["device"] for row in rows} == {"NVIDIA H200", "TPU v5 lite"}
    done = start(tmp_path / "none", "--targets", "v9z:2x2")
    assert done.returncode == 1
    assert "target 'v9z:2x2': libtpu says" in done.stderr
