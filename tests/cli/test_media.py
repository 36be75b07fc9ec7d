from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from epigraf.cli.media import atomic, check_target, front_sheet, grid, save_picture, squarest
from epigraf.errors import EpigrafError


def flat(value: int, height: int = 2, width: int = 3) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def test_grid_worked_example() -> None:
    sheet = grid([flat(1), flat(2), flat(3)], columns=2, gap=1)
    expected = [
        [1, 1, 1, 255, 2, 2, 2],
        [1, 1, 1, 255, 2, 2, 2],
        [255, 255, 255, 255, 255, 255, 255],
        [3, 3, 3, 255, 255, 255, 255],
        [3, 3, 3, 255, 255, 255, 255],
    ]
    assert sheet[..., 0].tolist() == expected
    assert (sheet == sheet[..., :1]).all()


def test_grid_leaves_places_out_and_keeps_alpha() -> None:
    clear = np.full((1, 1, 4), 9, dtype=np.uint8)
    assert grid([None, clear], columns=2).tolist() == [[[255, 255, 255, 0], [9, 9, 9, 9]]]


def test_front_sheet_has_one_large_and_the_others_beneath() -> None:
    sheet = front_sheet([flat(1, 12, 12), flat(2, 12, 12), flat(3, 12, 12), flat(4, 12, 12)])
    assert sheet.shape == (16, 12, 3)
    assert (sheet[:12] == 1).all()
    assert sheet[12:, :, 0].tolist() == [[2] * 4 + [3] * 4 + [4] * 4] * 4


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4), (16, 4)]
)
def test_squarest(count: int, columns: int) -> None:
    assert squarest(count) == columns


def test_atomic_writes_at_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with atomic(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("old")
        assert not path.exists()
    assert path.read_text() == "old"

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["folder", "file/x.png", "file/deep/x.png"])
def test_a_target_that_cannot_be_is_named_before_the_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(EpigrafError, match=f"{name}: .*folder"):
        check_target(tmp_path / name)
    check_target(tmp_path / "new" / "deep" / "x.png")
    check_target(tmp_path / "file")  # replaced at the end


def test_save_picture(tmp_path: Path) -> None:
    save_picture(flat(7), tmp_path / "a.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), flat(7))
    with pytest.raises(EpigrafError, match=r"unknown image format '.txt'; pictures end in .png"):
        save_picture(flat(7), tmp_path / "a.txt")
    with pytest.raises(EpigrafError, match=r"a \.png keeps every bit"):
        save_picture(flat(7), tmp_path / "a.png", 50)


def test_lossy_pictures(tmp_path: Path) -> None:
    for name, kind in (("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a.JPEG", "JPEG")):
        save_picture(flat(120, 16, 16), tmp_path / name, 90)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind
            assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - 120).max() <= 3
