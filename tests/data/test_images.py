"""The data set as a whole; official order, subset and pixels come from the reference fixture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from epigraf.data.decode import Pixels
from epigraf.data.images import ImageDataset
from epigraf.errors import DataError
from tests.data.conftest import png, write_set
from tests.parity.case import load_case
from tests.parity.kinds.dataset import check
from tests.parity.report import Report

GOLDEN = Path(__file__).parents[1] / "golden" / "g_dataset.json"
FILES = {f"{i}.png": png(8, seed=i) for i in range(4)}
INDEX = {
    "camera_angles": {f"{i}": [0.5 - 0.3 * i, 1.0 + 0.1 * i, 0.0] for i in range(4)},
    "labels": {f"{i}": i % 2 for i in range(4)},
}


def test_official_fixture_is_reproduced() -> None:
    lines: list[str] = []
    report = Report(write=lines.append)
    check(load_case(GOLDEN), report)
    assert report.failed == 0, "\n".join(lines)
    assert report.passed >= 30


def test_mirrored_items_are_reversed_with_negated_yaw(set_path: Path) -> None:
    data = ImageDataset(write_set(set_path, FILES, INDEX), mirror=True, use_labels=True)
    assert len(data) == 8
    for i in range(4):
        assert torch.equal(data.image(i + 4), data.image(i).flip(2))
        assert torch.equal(data.label(i + 4), data.label(i))
        yaw, pitch, roll = data.angles(i).tolist()
        assert data.angles(i + 4).tolist() == [-yaw, pitch, roll]
    assert data.mean_camera_pose[0].item() == pytest.approx(0, abs=1e-7)
    assert data.mean_camera_pose[1].item() == pytest.approx(1.15)
    assert torch.equal(data.all_angles()[5], data.angles(5))


def test_batches_are_scaled_to_one(set_path: Path) -> None:
    path = write_set(set_path, FILES, INDEX)
    batch = ImageDataset(path, use_labels=True).batch([3, 0])
    pixels = np.asarray(Image.open(io.BytesIO(FILES["3.png"]))).astype(np.float64)
    assert np.allclose(batch.images[0].permute(1, 2, 0).numpy(), pixels / 127.5 - 1, atol=1e-6)
    assert batch.images.dtype == torch.float32
    assert batch.labels.tolist() == [[0, 1], [1, 0]]
    assert batch.angles.shape == (2, 3)


def test_lazy_and_cached_sets_are_the_same(set_path: Path) -> None:
    path = write_set(set_path, FILES, INDEX)
    cached, lazy = ImageDataset(path, 4), ImageDataset(path, 4, pixels=Pixels(cache_bytes=0))
    for i in range(4):
        assert torch.equal(cached.image(i), lazy.image(i))


def test_items_cannot_be_changed_by_the_caller(tmp_path: Path) -> None:
    data = ImageDataset(write_set(tmp_path / "set.zip", FILES, INDEX))
    data.image(0).zero_()
    data.angles(0).zero_()
    assert data.image(0).any()
    assert data.angles(0).any()


def test_without_an_index_there_are_no_poses_and_no_labels(set_path: Path) -> None:
    path = write_set(set_path, FILES)
    data = ImageDataset(path, mirror=True)
    assert not data.has_angles
    assert data.label_dim == 0
    assert data.angles(5).tolist() == [0, 0, 0]
    assert data.label(0).shape == (0,)
    with pytest.raises(DataError, match=r"has no labels.*training\.use_labels=false"):
        ImageDataset(path, use_labels=True)


def test_all_problems_come_at_once_by_file_name(tmp_path: Path) -> None:
    files = {**FILES, "4.png": b"broken", "5.png": png(size=(8, 9)), "6.png": png(4)}
    with pytest.raises(DataError) as caught:
        ImageDataset(write_set(tmp_path / "set.zip", files, INDEX), 8)
    text = str(caught.value)
    assert "9 problems: " in text
    assert "4.png: has no entry in camera_angles" in text
    assert "and 4 more" in text
    assert "\n" not in text


def test_sizes_must_agree_when_none_is_asked_for(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set.zip", {**FILES, "z.png": png(16)})
    with pytest.raises(DataError, match=r"z\.png: is 16x16, expected 8x8"):
        ImageDataset(path)
    assert ImageDataset(path, 8).resolution == 8


@pytest.mark.parametrize("files", [{}, {"readme.txt": b"x"}])
def test_sets_without_a_picture_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match="no image in it"):
        ImageDataset(write_set(tmp_path / "set.zip", files, {}))


def test_sets_with_only_damaged_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1\.png: corrupt"):
        ImageDataset(write_set(tmp_path / "set.zip", {"0.png": b"x", "1.png": b"y"}))


def test_items_out_of_range_and_bad_subset_sizes(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set.zip", FILES)
    with pytest.raises(IndexError, match=r"item 4 is not in 0\.\.3"):
        ImageDataset(path).image(4)
    with pytest.raises(DataError, match="max_size must be at least 1"):
        ImageDataset(path, max_size=0)
    assert ImageDataset(path, max_size=9).raw_index == [0, 1, 2, 3]
