"""What is said of where results came from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
COST = """
from ppml_lab.lab.disk.provenance import cost
print(cost(None, 1.0)["peak_memory_bytes"])
"""


@pytest.mark.exhaustive  # of benchmarks alone
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)
def test_peak_memory_is_not_that_of_the_process_that_started_this_one() -> None:
    large = np.ones(2**30, np.uint8)
    done = subprocess.run(
        [sys.executable, "-c", COST], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert 2**26 < int(done.stdout) < large.nbytes
