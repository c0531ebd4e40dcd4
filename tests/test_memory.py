"""A round's memory is that of the data and of one client at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")

ROUND = """
from pathlib import Path
import jax, numpy as np, optax
from ppml_lab import data, federated, models

rng = np.random.default_rng(0)
examples = {
    "x": rng.random((60_000, 28, 28, 1), dtype=np.float32),
    "y": rng.integers(10, size=60_000, dtype=np.int32),
}
clients = data.federate(examples, np.repeat(np.arange(10_000), 6))
task = models.flax_classification(models.two_nn(10), (28, 28, 1))
trainer = federated.local_sgd(task, optax.sgd(0.1), 6, num_epochs=1)
algorithm = federated.averaging(task, trainer, federated.everyone(10_000))
state, history = federated.simulate(jax.random.key(0), algorithm, clients, 1)
assert history["num_reports"] == [10_000], history
assert np.isfinite(history["train_loss"]).all()
# Not getrusage's ru_maxrss, which a child inherits from the process that starts it.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's /proc")
def test_ten_thousand_clients_in_one_round_take_less_than_two_gib():
    # Their updates alone, kept until the end, would be 8 GB; the data are 188 MB.
    one_device = {name: os.environ[name] for name in os.environ if name != "XLA_FLAGS"}
    ended = subprocess.run(
        [sys.executable, "-c", ROUND],
        capture_output=True, text=True, timeout=600, check=False, env=one_device,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    kib = int(ended.stdout.split()[-1])
    assert 2**17 < kib < 2**21
