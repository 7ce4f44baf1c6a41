"""Writes tests/unit/data/ggml_blocks.safetensors: random blocks of every ggml type that Tyto only reads, and
their values by the `gguf` package (PyPI; also numpy and safetensors).

Usage: make_ggml_blocks.py OUT
"""
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

# Where a block's half-precision scales stand: random bits there could be no number.
HALVES = {"Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2),
          "Q6_K": (208,)}


def main(out):
    rng = np.random.default_rng(5)
    tensors = {}
    for name, halves in HALVES.items():
        kind = gguf.GGMLQuantizationType[name]
        size = gguf.GGML_QUANT_SIZES[kind][1]
        blocks = rng.integers(0, 256, (3, size), dtype=np.uint8)
        for at in halves:
            blocks[:, at:at + 2] = rng.normal(0, 0.1, (3, 1)).astype(np.float16).view(np.uint8)
        tensors[name.lower() + ".blocks"] = blocks
        tensors[name.lower() + ".values"] = gguf.quants.dequantize(blocks, kind).astype(np.float32)
    save_file(tensors, out)


main(sys.argv[1])
