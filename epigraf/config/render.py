"""The choices of what computes a rendering."""

from __future__ import annotations

from enum import Enum


class RenderBackend(Enum):
    """What marches rays: the fused renderer where it can, native ops one by one, or plain torch."""

    FUSED = "fused"
    OPS = "ops"
    REFERENCE = "reference"


class RenderSampler(Enum):
    """Where rays are sampled in inference: everywhere, or where an occupancy grid has something
    (OCCUPANCY: the same samples without those in empty cells; NERFACC: by nerfacc's traversal,
    which is CUDA code, and its compositing)."""

    DENSE = "dense"
    OCCUPANCY = "occupancy"
    NERFACC = "nerfacc"


class Compositor(Enum):
    """What turns densities into weights: the native op, or nerfacc's batched functions."""

    NATIVE = "native"
    NERFACC = "nerfacc"


class DecoderEngine(Enum):
    """What evaluates the decoder: the native op, or tiny-cuda-nn's FullyFusedMLP (CUDA, half)."""

    NATIVE = "native"
    TINYCUDANN = "tinycudann"
