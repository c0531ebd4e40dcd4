"""SPU 0.9.5: `Io` splits integers into SEMI2K shares and puts them together again.

Integers are no fixed-point numbers, so that shares alone are timed.
"""

from __future__ import annotations

import importlib.metadata

import numpy as np
import spu  # pyrefly: ignore[missing-import]
from spu import libspu  # pyrefly: ignore[missing-import]

from experiments.secure_throughput_workers import work


def main() -> None:
    options = work.arguments(sorted(work.PARTIES))
    bits = options.word_bits
    field = getattr(libspu.FieldType, f"FM{bits}")
    config = libspu.RuntimeConfig(libspu.ProtocolKind.SEMI2K, field)
    io = spu.Io(work.PARTIES[options.task], config)
    values = work.words(options, options.values, bits).view(f"int{bits}")
    opened = work.report(
        options,
        values,
        {
            "share": lambda x: io.make_shares(x, libspu.Visibility.VIS_SECRET),
            "reconstruct": io.reconstruct,
        },
        system="SPU",
        version=importlib.metadata.version("spu"),
        protocol=f"SEMI2K FM{bits}",
    )
    assert np.array_equal(opened, values)


if __name__ == "__main__":
    main()
