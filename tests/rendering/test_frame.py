"""Frames, boxes and tiles: hand-worked places, rays of the whole picture, covering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epigraf import ops
from epigraf.rendering.camera import cam2world
from epigraf.rendering.frame import Box, Frame, box_filter, frame_rays, pixel_places

CAMERA = cam2world(torch.tensor([[0.4, 1.2, 0.0]]), 1.0)


@given(
    box=st.builds(Box, *(st.integers(0, 30),) * 2, *(st.integers(1, 60),) * 2),
    pixels=st.integers(1, 5000),
)
def test_tiles_cover_a_box_once(box: Box, pixels: int) -> None:
    seen = np.zeros((100, 100), dtype=int)
    for tile in box.tiles(pixels):
        assert tile.width * tile.height <= pixels
        seen[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    expected = np.zeros_like(seen)
    expected[box.top : box.top + box.height, box.left : box.left + box.width] = 1
    assert np.array_equal(seen, expected)


def test_places_by_hand() -> None:
    assert pixel_places(5, 0, 5, 1).tolist() == [-1, -0.5, 0, 0.5, 1]
    assert pixel_places(5, 3, 2, 1).tolist() == [0.5, 1]
    # the rays of pixel 2 of 5 at half a pixel's distance of each other: a quarter beside its centre
    assert pixel_places(5, 2, 1, 2).tolist() == [-0.125, 0.125]
    assert pixel_places(1, 0, 1, 1).tolist() == [0]


def test_rays_are_those_of_the_op_and_a_box_has_its_part() -> None:
    whole = frame_rays(CAMERA, 30.0, Frame(9), Frame(9).box)
    origins, directions = ops.patch_rays(CAMERA, 30.0, 9, 9)
    torch.testing.assert_close(whole.origins, origins, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole.directions, directions, atol=1e-6, rtol=0)
    box = Box(2, 3, 4, 5)
    part = frame_rays(CAMERA, 30.0, Frame(9, box), box)
    rows = whole.directions.view(9, 9, 3)[3:8, 2:6]
    assert torch.equal(part.directions.view(5, 4, 3), rows)


def test_box_filter_by_hand() -> None:
    values = torch.arange(16.0).view(1, 16, 1)  # 4 x 4 rays of 2 x 2 pixels
    picture = box_filter(values, Box(0, 0, 2, 2), 2)
    assert picture.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert torch.equal(box_filter(values, Box(0, 0, 4, 4), 1)[0, 0], values.view(4, 4))


def test_frames_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="must lie inside the picture of 8 pixels"):
        Frame(8, Box(4, 0, 5, 1))
    with pytest.raises(ValueError, match="at least 1, got 8 and 0"):
        Frame(8, supersample=0)
