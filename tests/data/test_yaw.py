"""Yaw from asymmetry: painted faces whose noses are where a known yaw puts them."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from epigraf.data.images import ImageDataset
from epigraf.data.posing import write_posed
from epigraf.data.yaw import SIDE, Muzzle, estimate_yaw, mirror_axis
from epigraf.errors import DataError

from .conftest import write_set


def faces(yaw: np.ndarray, depth: float, side: int = 64) -> torch.Tensor:
    """Two eyes in their places; nose, mouth and cheeks moved by depth sin(yaw); light and noise."""
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, side), np.linspace(0, 1, side))
    pictures = []
    for angle in yaw:
        middle = depth * math.sin(angle)

        def spot(cx: float, cy: float, size: float) -> np.ndarray:
            return np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / size**2)

        fur = rng.uniform(0.4, 0.9) + 0.1 * rng.uniform(-1, 1) * x  # lit from a side
        dark = 0.5 * (spot(-0.25, 0.42, 0.07) + spot(0.25, 0.42, 0.07))
        dark += 0.4 * spot(middle, 0.62, 0.05) + 0.2 * spot(middle, 0.75, 0.04)
        dark -= 0.2 * (spot(middle - 0.12, 0.7, 0.06) + spot(middle + 0.12, 0.7, 0.06))
        grey = fur - rng.uniform(0.5, 1) * dark + 0.03 * rng.standard_normal(x.shape)
        pictures.append(np.repeat((255 * grey.clip(0, 1)).astype(np.uint8)[None], 3, axis=0))
    return torch.from_numpy(np.stack(pictures))


def test_the_axis_of_two_lines_is_between_them() -> None:
    picture = torch.zeros(2, 1, SIDE, SIDE)
    picture[0, ..., 36] = picture[0, ..., 43] = 1  # the middle of 36 and 43 is 39.5, 8 right
    picture[1, ..., 26] = picture[1, ..., 31] = 1  # 28.5: 3 left
    axis, symmetry = mirror_axis(picture, Muzzle())
    assert axis.tolist() == [8, -3]
    torch.testing.assert_close(symmetry, torch.ones(2))


@pytest.mark.parametrize("side", [64, 80])
def test_estimates_follow_the_true_yaw(side: int) -> None:
    true = np.random.default_rng(0).normal(0, 0.2, 300).clip(-0.5, 0.5)
    pictures = faces(true, depth=0.22, side=side)
    found = estimate_yaw(torch.cat([pictures, pictures.flip(3)])).double().numpy()
    np.testing.assert_allclose(found[300:], -found[:300], atol=1e-5)
    assert np.corrcoef(found[:300], true)[0, 1] > 0.9
    assert np.polyfit(true, found[:300], 1)[0] == pytest.approx(1, abs=0.25)


def test_too_few_or_no_faces_are_refused() -> None:
    with pytest.raises(DataError, match="99 pictures are too few"):
        estimate_yaw(torch.zeros(99, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(DataError, match="no mirror symmetry found"):
        estimate_yaw(torch.zeros(100, 3, 64, 64, dtype=torch.uint8))


def test_a_posed_copy_holds_pictures_labels_and_angles(tmp_path: Path) -> None:
    files = {f"{i:03d}.png": _png(face) for i, face in enumerate(faces(np.zeros(120), 0.22, 32))}
    labels = [[name, int(name[:3]) % 2] for name in files]
    source = write_set(tmp_path / "plain.zip", files, {"labels": labels, "camera_angles": None})
    out = tmp_path / "posed.zip"
    angles = write_posed(source, out, pitch_stddev=0.1)
    posed = ImageDataset(out, use_labels=True)
    assert posed.has_angles
    assert posed.label_dim == 2
    np.testing.assert_allclose(posed.all_angles(), angles, atol=1e-6)
    assert np.abs(angles[:, 1] - math.pi / 2).max() <= 0.2 + 1e-9
    assert angles[:, 1].std() == pytest.approx(0.1, rel=0.25)
    with zipfile.ZipFile(out) as archive:
        assert archive.read("007.png") == files["007.png"]
        assert json.loads(archive.read("dataset.json"))["labels"] == labels
    with pytest.raises(DataError, match=r"must be the name of a new \.zip file"):
        write_posed(source, out)


def _png(face: torch.Tensor) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(face.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
