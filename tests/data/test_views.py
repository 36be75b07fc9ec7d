"""Views of one object: poses from either file, opacities from any transparency, and the errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from epigraf.data.views import read_views
from epigraf.errors import DataError


def write(folder: Path, pixel: tuple[int, ...], names: str = "ab") -> Path:
    folder.mkdir(parents=True)
    for name in names:
        mode = "RGBA" if len(pixel) == 4 else "RGB"
        Image.new(mode, (8, 8), pixel).save(folder / f"{name}.png")
    return folder


def cameras(folder: Path, names: str = "ab") -> None:
    poses = {name: [0.1 * i, 1.0, 0.0] for i, name in enumerate(names)}
    (folder / "cams.json").write_text(json.dumps({"cls": 0, "cams": poses}))


def test_colours_over_black_and_opacities(tmp_path: Path) -> None:
    cameras(write(tmp_path / "set" / "x", (200, 100, 0, 51)))
    views = read_views(tmp_path / "set")
    assert views.names == ("x/a.png", "x/b.png")
    torch.testing.assert_close(views.angles, torch.tensor([[0, 1.0, 0], [0.1, 1.0, 0]]))
    assert views.alpha is not None
    assert views.alpha[0, 3, 3] == pytest.approx(51 / 255, abs=0.005)
    np.testing.assert_allclose(views.colors[0, :, 3, 3], [40, 20, 0], atol=1)
    second = views.part([1])
    assert (len(second), second.names, second.side) == (1, ("x/b.png",), 8)
    assert torch.equal(second.angles, views.angles[1:])


def test_opaque_pictures_have_no_opacities_and_may_be_shrunk(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", (200, 100, 0))
    poses = {"camera_angles": {"a.png": [0.5, 1.5, 0.0], "b.png": [1.0, 1.5, 0.0]}}
    (folder / "dataset.json").write_text(json.dumps(poses))
    views = read_views(folder, resolution=4)
    assert views.alpha is None
    assert views.side == 4
    assert views.angles[:, 0].tolist() == [0.5, 1.0]


def test_an_object_is_found_by_its_folder(tmp_path: Path) -> None:
    for name in ("cactus/1", "cactus/2", "palm/3"):
        cameras(write(tmp_path / "set" / name, (0, 0, 0)))
    assert read_views(tmp_path / "set", "2").names[0] == "cactus/2/a.png"
    assert read_views(tmp_path / "set", "palm/3/").names[0] == "palm/3/a.png"
    assert read_views(tmp_path / "set" / "palm").names[0] == "3/a.png"
    with pytest.raises(DataError, match=r"3 objects .* choose one of 3 with --object, like cactus"):
        read_views(tmp_path / "set")
    with pytest.raises(DataError, match=r"no object 'cactus/4' .* like cactus/2"):
        read_views(tmp_path / "set", "cactus/4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no camera_angles in dataset.json and no cams.json"),
        ("{}", "cams.json: unreadable, or without 'cams'"),
        ('{"cams": {"a": [0, 1, 0]}}', "cams.json: unreadable, or without 'b'"),
        ('{"cams": {"a": [0, 1], "b": [0, 1]}}', r"each camera is \[yaw, pitch, roll\]"),
        ('{"cams": {"a": [0, 1, 0], "b": [0, NaN, 0]}}', r"each camera is \[yaw, pitch, roll\]"),
        ("no json", "cams.json: unreadable"),
    ],
)
def test_poses_that_are_not_there(tmp_path: Path, text: str | None, message: str) -> None:
    folder = write(tmp_path / "set", (0, 0, 0))
    if text is not None:
        (folder / "cams.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_views(folder)


def test_pictures_that_cannot_be_fitted(tmp_path: Path) -> None:
    cameras(write(tmp_path / "set", (0, 0, 0)))
    Image.new("RGB", (8, 6)).save(tmp_path / "set" / "b.png")
    with pytest.raises(DataError, match=r"b.png: is 8x6: images must be square"):
        read_views(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in it"):
        read_views(tmp_path / "empty")
