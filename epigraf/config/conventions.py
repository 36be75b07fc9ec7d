"""Conventions of other systems (EG3D) that a field and its renderer can follow."""

from __future__ import annotations

from enum import Enum


class Projection(Enum):
    """Which coordinates the three planes are read at: (xy, xz, yz), or as EG3D's released models
    (xy, xz, zx: EG3D_LEGACY) and its later versions (xy, xz, zy) do, turned to face +x."""

    EPIGRAF = "epigraf"
    EG3D_LEGACY = "eg3d_legacy"
    EG3D = "eg3d"


class HiddenActivation(Enum):
    """Between the decoder's layers: leaky ReLU with a gain of sqrt(2), or softplus (EG3D)."""

    LRELU = "lrelu"
    SOFTPLUS = "softplus"


class ColorActivation(Enum):
    """Of the decoder's colours: none, or 2 (1.002 sigmoid(x) - 0.001) - 1 (mip-NeRF, EG3D)."""

    LINEAR = "linear"
    SIGMOID = "sigmoid"


class Quadrature(Enum):
    """What an interval of a ray holds: its first sample, or the mean of both (EG3D)."""

    POINTS = "points"
    MIDPOINTS = "midpoints"
