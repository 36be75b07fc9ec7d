"""Outputs as pictures: worked pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from epigraf.cli.shades import Range, needed, over_white, shade
from epigraf.config import Config
from epigraf.models.pictures import Output

LIMITS = Range(near=0.5, far=1.5, slab=0.1)


def image(*pixels: float | tuple[float, ...]) -> Tensor:
    """A picture of one row."""
    rows = [p if isinstance(p, tuple) else (p,) for p in pixels]
    return torch.tensor(rows).T[:, None, :].float()


def near(values: list[int]) -> object:
    """Equal but for the rounding of a float32 just below an integer."""
    return pytest.approx(values, abs=1)


def grey(output: Output, values: Tensor, opacity: Tensor | None = None) -> list[int]:
    solid = torch.ones(1, 1, values.shape[2])
    picture = {Output.OPACITY: solid if opacity is None else opacity, output: values}
    shaded = shade(picture, output, LIMITS)
    assert (shaded == shaded[..., :1]).all()
    return shaded[0, :, 0].tolist()


def test_depth_is_bright_near_by_and_fades_to_white() -> None:
    # 0.9 at near, 0.1 at far; x 255 rounded as pictures are: floor((2 g - 1) 127.5 + 128)
    values, opacity = image(0.5, 1.0, 1.5, 0.0, 1.5), image(1, 1, 1, 0, 0.5)
    assert grey(Output.DEPTH, values, opacity) == near([230, 128, 26, 255, 140])


def test_raw_depth_opacity_and_density() -> None:
    assert grey(Output.RAW_DEPTH, image(0.0, 0.75, 3.0)) == near([0, 128, 255])
    assert grey(Output.OPACITY, image(0.0, 0.5, 1.0)) == near([0, 128, 255])
    half = float(np.log(2)) / LIMITS.slab
    assert grey(Output.DENSITY, image(0.0, half, 1e9)) == near([255, 128, 0])


def test_normals_are_colours_of_their_direction() -> None:
    normal = image((0.5, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -0.2, 0.0), (0.0, 0.0, 0.0))
    picture = {Output.NORMAL: normal, Output.OPACITY: image(1.0, 1.0, 0.5, 0.0)}
    pixels = shade(picture, Output.NORMAL, LIMITS)[0].tolist()
    assert pixels == [[255, 128, 128], [128, 128, 255], [191, 128, 191], [255, 255, 255]]


def test_foreground_has_alpha() -> None:
    values = image((1.0, 0.0, -1.0, 0.5), (0.0, 0.0, 0.0, 0.0))
    pixels = shade({Output.FOREGROUND: values}, Output.FOREGROUND, LIMITS)
    assert pixels[0].tolist() == [[255, 128, 0, 128], [128, 128, 128, 0]]
    white = over_white(pixels)
    assert white[0].tolist() == [[255, 191, 127], [255, 255, 255]]
    assert over_white(white) is white


def test_what_pictures_need_and_their_range() -> None:
    assert needed((Output.COLOR,)) == (Output.COLOR,)
    assert needed((Output.NORMAL,)) == (Output.NORMAL, Output.OPACITY)
    cfg = Config()
    assert Range.of(cfg) == Range(0.88, 1.12, 0.05 * 0.2)
    moved = Range.of(cfg, 3.0)
    assert (round(moved.near, 6), round(moved.far, 6)) == (2.88, 3.12)
