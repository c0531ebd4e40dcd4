"""A round's memory is that of the data and of one client at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")

ROUND = """
import sys
from pathlib import Path
import jax, numpy as np, optax
from ppml_lab import data, federated, models

number = int(sys.argv[1])
rng = np.random.default_rng(0)
examples = {
    "x": rng.random((6 * number, 28, 28, 1), dtype=np.float32),
    "y": rng.integers(10, size=6 * number, dtype=np.int32),
}
clients = data.federate(examples, np.repeat(np.arange(number), 6))
task = models.flax_classification(models.two_nn(10), (28, 28, 1))
trainer = federated.local_sgd(task, optax.sgd(0.1), 6, num_epochs=1)
algorithm = federated.averaging(task, trainer, federated.everyone(number))
state, history = federated.simulate(jax.random.key(0), algorithm, clients, 1)
assert history["num_reports"] == [number], history
assert np.isfinite(history["train_loss"]).all()
# Not getrusage's ru_maxrss, which a child inherits from the process that starts it.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.exhaustive  # nobody holds more than a lane: federated/test_lanes
@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("num_clients", [3_000, 10_000])
def test_thousands_of_clients_in_one_round_take_less_than_two_gib(num_clients):
    # Their updates alone, kept until the end, would be 800 kB each; the data of 10,000
    # are 188 MB.
    one_device = {name: os.environ[name] for name in os.environ if name != "XLA_FLAGS"}
    ended = subprocess.run(
        [sys.executable, "-c", ROUND, str(num_clients)],
        capture_output=True, text=True, timeout=600, check=False, env=one_device,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    kib = int(ended.stdout.split()[-1])
    assert 2**17 < kib < 2**21
