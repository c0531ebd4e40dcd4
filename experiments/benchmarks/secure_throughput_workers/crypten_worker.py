"""The worker of CrypTen 0.4.1 on PyTorch 2.13: three processes, additive shares, and
triples from the first party's generator; also PyTorch's product of 64-bit integers.

CrypTen's ONNX importer, which is not needed here, does not load with this PyTorch and
is replaced by an empty module. The time is the first party's, between barriers.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import types
from typing import Any

import numpy as np
import torch  # pyrefly: ignore[missing-import]

from experiments.benchmarks.secure_throughput_workers import work

importer: Any = types.ModuleType("crypten.nn.onnx_converter")
importer.from_onnx = importer.from_pytorch = importer.from_tensorflow = None
importer.TF_AND_TF2ONNX = False
sys.modules["crypten.nn.onnx_converter"] = importer

import crypten  # noqa: E402  # pyrefly: ignore[missing-import]
import crypten.communicator as communicator  # noqa: E402  # pyrefly: ignore[missing-import]
from crypten import mpc  # noqa: E402  # pyrefly: ignore[missing-import]

ABOUT = {"system": "CrypTen", "version": "0.4.1"}
FUNCTIONS = {
    "shared_layer": lambda i: i["x"].matmul(i["first"]),
    "linear_layers": lambda i: i["x"].matmul(i["first"]).matmul(i["second"]),
    "mlp": lambda i: i["x"].matmul(i["first"]).relu().matmul(i["second"]),
    "training_step": lambda i: (
        i["weights"]
        - (
            i["x"].t().matmul(i["x"].matmul(i["weights"]).sigmoid() - i["labels"])
            * (0.1 / 128)
        )
    ),
}


def plain_matmul(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(options.seed)
    pair = [
        torch.from_numpy(rng.integers(-(2**62), 2**62, (options.size, options.size)))
        for _ in range(2)
    ]
    work.report(
        options,
        pair,
        {"product": lambda pair: pair[0] @ pair[1]},
        system="PyTorch",
        version=importlib.metadata.version("torch"),
    )


@mpc.run_multiprocess(world_size=3)
def on_shares(options: argparse.Namespace) -> list[str]:
    """Times work on shares in every party; the first party's line counts."""
    import contextlib
    import io

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    clear = work.mlp_inputs(options)
    if options.task == "shared_matmul":
        shares = torch.randint(0, 2**31, (options.size, options.size))
        value = mpc.MPCTensor.from_shares(shares, precision=0, ptype=mpc.arithmetic)
        inputs: Any = value

        def function(value: Any) -> Any:
            return value.matmul(value)
    else:
        inputs = {
            name: crypten.cryptensor(torch.from_numpy(array), src=0)
            for name, array in clear.items()
        }
        function = FUNCTIONS[options.task]

    def evaluate(value: Any) -> Any:
        communicator.get().barrier()
        result = function(value)
        communicator.get().barrier()
        return result

    line = io.StringIO()
    communicator.get().reset_communication_stats()
    evaluate(inputs)
    sent = communicator.get().get_communication_stats()
    with contextlib.redirect_stdout(line):
        result = work.report(
            options,
            inputs,
            {"evaluate": evaluate},
            **ABOUT,
            protocol="additive, trusted first party",
            rounds=sent["rounds"],
            party_bytes=sent["bytes"],
        )
    opened = result.get_plain_text()
    if options.task == "mlp":
        x, a, b = (clear[name] for name in ("x", "first", "second"))
        error = np.abs(opened.numpy() - np.maximum(x @ a, 0) @ b).max()
        assert error < 2e-2, error
    return line.getvalue().splitlines()


def main() -> None:
    options = work.arguments(sorted(["plain_matmul", "shared_matmul", *FUNCTIONS]))
    if options.task == "plain_matmul":
        plain_matmul(options)
        return
    crypten.cfg.communicator.verbose = True
    print(on_shares(options)[0][-1], flush=True)


if __name__ == "__main__":
    main()
