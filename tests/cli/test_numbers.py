"""Numbers on disk, read back by other programs' rules."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from epigraf.cli.arguments import NumbersFormat
from epigraf.cli.numbers import check_numbers, linear_light, save_numbers
from epigraf.cli.shades import Range
from epigraf.errors import EpigrafError
from epigraf.models.pictures import Output, Picture

LIMITS = [Range(0.5, 1.5, 0.1), Range(0.0, 2.0, 0.1)]
WANTED = (Output.COLOR, Output.DEPTH, Output.NORMAL, Output.OPACITY)


def view(seed: int) -> Picture:
    torch.manual_seed(seed)
    return {
        Output.COLOR: torch.rand(3, 2, 3) * 2 - 1,
        Output.DEPTH: torch.tensor([[[0.0, 0.5, 1.0], [1.5, 0.75, 9.0]]]),
        Output.NORMAL: torch.rand(3, 2, 3) * 2 - 1,
        Output.OPACITY: torch.rand(1, 2, 3),
    }


def test_npz(tmp_path: Path) -> None:
    save_numbers([view(0), view(1)], WANTED, NumbersFormat.NPZ, tmp_path / "seed0001", LIMITS)
    with np.load(tmp_path / "seed0001.npz") as file:
        assert sorted(file) == sorted(output.value for output in WANTED)
        assert file["normal"].shape == (2, 2, 3, 3)
        assert np.array_equal(file["color"][1, 0, 2], view(1)[Output.COLOR][:, 0, 2].numpy())


def test_png16_is_linear_from_near_to_far_and_0_where_nothing_is(tmp_path: Path) -> None:
    save_numbers([view(0), view(1)], WANTED, NumbersFormat.PNG16, tmp_path / "a", LIMITS)
    names = [f"a-view0{i}-{o}16.png" for i in (0, 1) for o in ("depth", "opacity")]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    with Image.open(tmp_path / "a-view00-depth16.png") as file:
        assert (file.text["near"], file.text["far"]) == ("0.5", "1.5")
        whole = np.asarray(file).tolist()
    assert whole == [[0, 1, 1 + 32767], [65535, 1 + round(0.25 * 65534), 65535]]
    with Image.open(tmp_path / "a-view01-opacity16.png") as file:
        back = np.asarray(file) / 65535
    assert np.abs(back - view(1)[Output.OPACITY][0].numpy()).max() < 1e-5


def test_exr(tmp_path: Path) -> None:
    exr = pytest.importorskip("OpenEXR")
    save_numbers([view(0)], WANTED, NumbersFormat.EXR, tmp_path / "a", LIMITS)
    with exr.File(str(tmp_path / "a-view00.exr"), separate_channels=True) as file:
        channels = {name: channel.pixels for name, channel in file.channels().items()}
    assert sorted(channels) == ["A", "B", "G", "R", "Z", "normal.X", "normal.Y", "normal.Z"]
    assert np.array_equal(channels["Z"], view(0)[Output.DEPTH][0].numpy())
    assert np.array_equal(channels["normal.Y"], view(0)[Output.NORMAL][1].numpy())
    assert np.array_equal(channels["G"], linear_light(view(0)[Output.COLOR].numpy())[1])
    assert [p.name for p in tmp_path.iterdir()] == ["a-view00.exr"]


def test_linear_light_of_known_values() -> None:
    """sRGB 0.5 is 0.21404 in linear light; the ends stay; beyond them is cut."""
    got = linear_light(np.array([-3.0, -1.0, 0.0, 1.0, 2.0]))
    assert got.tolist() == pytest.approx([0, 0, 0.21404114, 1, 1])


def test_what_cannot_be_written_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EpigrafError, match="png16 holds depth and opacity"):
        check_numbers(NumbersFormat.PNG16, (Output.COLOR,))
    check_numbers(NumbersFormat.NPZ, (Output.COLOR,))
    check_numbers(None, (Output.COLOR,))
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(EpigrafError, match=r"needs the package OpenEXR; pip install 'epigraf\[exr"):
        check_numbers(NumbersFormat.EXR, (Output.DEPTH,))
