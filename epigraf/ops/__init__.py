"""The ops: one file each, a public function, its plain-torch reference and its native kernel."""

from __future__ import annotations

from epigraf.ops._native import available, backend_line, reason, use_reference
from epigraf.ops.activation import Curve, activation
from epigraf.ops.composite import Composite, composite
from epigraf.ops.decoder import decode
from epigraf.ops.importance import importance_t, merge_samples
from epigraf.ops.random import philox_normal, philox_uniform
from epigraf.ops.rays import ball_segment, patch_rays
from epigraf.ops.render import FieldTensors, March, RayTensors, RenderedRays, render
from epigraf.ops.resample import blur2d, downsample2d, upsample2d
from epigraf.ops.triplane import sample_triplane

__all__ = [
    "Composite",
    "Curve",
    "FieldTensors",
    "March",
    "RayTensors",
    "RenderedRays",
    "activation",
    "available",
    "backend_line",
    "ball_segment",
    "blur2d",
    "composite",
    "decode",
    "downsample2d",
    "importance_t",
    "merge_samples",
    "patch_rays",
    "philox_normal",
    "philox_uniform",
    "reason",
    "render",
    "sample_triplane",
    "upsample2d",
    "use_reference",
]
