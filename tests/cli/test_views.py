"""sample and video: how options compose, on a very small model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from epigraf.config import Config
from epigraf.models import pictures as pictures_module
from epigraf.models.generator import Generator
from epigraf.models.loading import write_snapshot
from tests.cli.conftest import SMALL
from tests.cli.film import read_frames

Run = Callable[..., Result]
CORNER = "keyframes:\n  - {yaw: 0, pitch: 1.2, time: 0}\n  - {yaw: 1, pitch: 1.4, time: 0.5}\n"


@pytest.fixture(scope="module")
def with_background(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the sphere background."""
    cfg = Config.from_dict(SMALL).with_overrides(["model.generator.bg_model.type=sphere"])
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("background") / "network-snapshot-000001.safetensors"
    header = {"config": cfg.to_dict(), "counters": {"images_seen": 1000}}
    write_snapshot(path, header, {"G_ema": Generator(cfg).state_dict()})
    return path


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def test_outputs_are_files_of_their_own_and_stand_side_by_side(
    epigraf: Run, model: Path, tmp_path: Path
) -> None:
    words = ("--seeds", "3,4", "--outputs", "color,depth,normal,foreground", "--views", 2)
    ok(epigraf("sample", model, *words, "--numbers", "npz", "--out", tmp_path))
    assert picture(tmp_path / "grid.png").shape == (32, 2 * 4 * 16, 3)
    assert picture(tmp_path / "seed0003-foreground.png").shape == (16, 32, 4)
    row = picture(tmp_path / "grid.png")[:16]
    assert np.array_equal(row[:, 16:32], picture(tmp_path / "seed0003-depth.png")[:, :16])
    with np.load(tmp_path / "seed0004.npz") as file:
        assert file["normal"].shape == (2, 16, 16, 3)


def test_background_and_foreground_apart(
    epigraf: Run, with_background: Path, tmp_path: Path
) -> None:
    words = ("--seeds", 1, "--outputs", "color,foreground,background", "--out", tmp_path)
    ok(epigraf("sample", with_background, *words, "--numbers", "npz"))
    with np.load(tmp_path / "seed0001.npz") as file:
        front, behind = file["foreground"][0], file["background"][0]
        assert behind.std() > 0
        assert front.shape == (16, 16, 4)
    film = tmp_path / "a.webp"
    ok(epigraf("video", with_background, *words[:4], "--frames", 2, "--out", film))
    with Image.open(film) as frames:
        assert (frames.n_frames, frames.size) == (2, (48, 16))


def test_a_crop_is_cut_out_of_the_whole(epigraf: Run, model: Path, tmp_path: Path) -> None:
    words = ("--seeds", 2, "--resolution", 20)
    ok(epigraf("sample", model, *words, "--out", tmp_path / "whole.png"))
    whole = picture(tmp_path / "whole.png")
    for crop, box in {"5,2,10,8": (5, 2, 15, 10), "0.25,.5,0.5,0.5": (5, 10, 15, 20)}.items():
        ok(epigraf("sample", model, *words, "--crop", crop, "--out", tmp_path / "crop.png"))
        left, top, right, bottom = box
        assert np.array_equal(picture(tmp_path / "crop.png"), whole[top:bottom, left:right])


def test_sweep_mixing_and_strips_make_columns(epigraf: Run, model: Path, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    sizes = {
        ("--trunc", "0,0.5,1"): (32, 48),
        ("--mix", "7-9"): (48, 64),
        ("--interp", "z", "--steps", 4): (16, 64),
    }
    for words, (height, width) in sizes.items():
        ok(epigraf("sample", model, "--seeds", "3,4", *words, "--out", a / "sheet.png"))
        assert picture(a / "sheet.png").shape == (height, width, 3)
    ok(epigraf("sample", model, "--seeds", "3,4", "--mix", "7-9", "--out", b))
    assert (picture(b / "grid.png")[:16, :16] == 255).all()
    assert np.array_equal(picture(b / "grid.png")[:16, 16:32], picture(b / "seed0007.png"))
    ok(epigraf("sample", model, "--seeds", 7, "--out", a))
    assert np.array_equal(picture(b / "seed0007.png"), picture(a / "seed0007.png"))
    # all layers mixed: the other object itself
    every = ("--mix", 7, "--mix-layers", "0-3")
    ok(epigraf("sample", model, "--seeds", 3, *every, "--out", b))
    assert np.array_equal(picture(b / "seed0003-mix0007.png"), picture(b / "seed0007.png"))


def test_interpolations_begin_and_end_at_the_seeds(
    epigraf: Run, model: Path, tmp_path: Path
) -> None:
    ok(epigraf("sample", model, "--seeds", "3,4", "--out", tmp_path))
    for kind in ("w", "z"):
        out = tmp_path / f"{kind}.png"
        ok(epigraf("sample", model, "--seeds", "3,4", "--interp", kind, "--steps", 3, "--out", out))
        strip = picture(out).astype(int)
        for name, at in (("seed0003.png", 0), ("seed0004.png", 32)):
            assert np.abs(strip[:, at : at + 16] - picture(tmp_path / name)).max() <= 1


def test_front_layout_and_formats(epigraf: Run, model: Path, tmp_path: Path) -> None:
    words = ("--seeds", 3, "--views", 5, "--layout", "front", "--outputs", "foreground")
    ok(epigraf("sample", model, *words, "--format", "jpg", "--quality", 60, "--out", tmp_path))
    with Image.open(tmp_path / "seed0003.jpg") as file:
        assert (file.size, file.mode) == ((16, 20), "RGB")
    ok(epigraf("sample", model, *words, "--format", "webp", "--out", tmp_path))
    with Image.open(tmp_path / "grid.webp") as file:
        assert (file.size, file.mode) == ((16, 20), "RGBA")


def test_keyframes_say_how_long_a_film_is(epigraf: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "camera.yaml").write_text(CORNER)
    words = ("--seeds", 1, "--path", tmp_path / "camera.yaml", "--fps", 8)
    ok(epigraf("video", model, *words, "--zoom", 2, "--out", tmp_path / "a.mp4"))
    assert len(read_frames(tmp_path / "a.mp4")) == 5  # half a second at 8 a second, both ends


def test_still_films_of_a_dolly_zoom_move(epigraf: Run, model: Path, tmp_path: Path) -> None:
    words = ("--seeds", 1, "--path", "still", "--yaw", 1, "--dolly", 2, "--zoom", 0.5)
    ok(epigraf("video", model, *words, "--frames", 3, "--out", tmp_path / "a.mp4"))
    first, second, _ = read_frames(tmp_path / "a.mp4")
    assert np.abs(first.astype(int) - second).max() > 0


def test_set_changes_the_picture_not_the_model(epigraf: Run, model: Path, tmp_path: Path) -> None:
    out = []
    for steps in (6, 40):
        path = tmp_path / f"{steps}.png"
        change = f"model.generator.test_ray_steps={steps}"
        ok(epigraf("sample", model, "--seeds", 1, "--set", change, "--out", path))
        out.append(picture(path))
    ok(epigraf("sample", model, "--seeds", 1, "--out", tmp_path / "own.png"))
    assert np.array_equal(out[0], picture(tmp_path / "own.png"))
    assert not np.array_equal(out[0], out[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "--outputs", "dept"), "unknown 'dept'; choose from color, depth, raw_depth"),
        (("sample", "--outputs", "background"), "trained without a background model"),
        (("sample", "--crop", "0,0,2"), "write X,Y,W,H like 0.25,0,0.5,1"),
        (("sample", "--crop", "9,0,9,4"), "lie inside the picture, 16 pixels a side"),
        (("sample", "--crop", "0.5,0,0.6,1."), "lie inside the picture"),
        (("sample", "--trunc", "0,x"), "write 0.7 or 0,0.5,1"),
        (("sample", "--trunc", "3"), "must lie in -2..2, got 3.0"),
        (("sample", "--trunc", "0,1", "--mix", "1"), "both make columns"),
        (("sample", "--mix-layers", "1"), "needs --mix SEEDS"),
        (("sample", "--mix", "1", "--mix-layers", "3-99"), "this model has style layers 0-3"),
        (("sample", "--mix", "x"), "--mix: cannot read 'x'"),
        (("sample", "--interp", "w", "--seeds", "1"), "needs two seeds at least"),
        (("sample", "--interp", "w", "--views", "3"), "--views makes columns"),
        (("sample", "--steps", "3"), "--steps are those of --interp"),
        (("sample", "--layout", "front"), "add --views 6"),
        (("sample", "--zoom", "2"), "one view takes --fov and --radius"),
        (("sample", "--views", "3", "--path", "still"), "--path still has one view"),
        (("sample", "--format", "jpg", "--out", "a.png"), "disagree"),
        (("sample", "--numbers", "npz", "--out", "a.png"), "--numbers needs a folder"),
        (("sample", "--numbers", "png16"), "png16 holds depth and opacity"),
        (("sample", "--quality", "50"), "a .png keeps every bit"),
        (("sample", "--device", "tpu"), "--device tpu: choose from auto, cpu"),
        (("sample", "--device", "cuda:99"), "--device cuda:99: choose from auto, cpu"),
        (("sample", "--set", "model.generator.cmax=8"), "cannot be changed in a trained model"),
        (("sample", "--set", "render.bakend=ops"), "did you mean 'render.backend'"),
        (("sample", "--set", "render.backend=gpu"), "render.backend"),
        (("video", "--path", "circel"), "did you mean 'circle'?"),
        (("video", "--yaw", "1"), "add --path still"),
        (("video", "--quality", "5", "--out", "a.gif"), "256 colours"),
        (("video", "--grid", "2x2", "--mix", "1"), "--grid arranges seeds, but --mix"),
        (("video", "--interp", "z", "--trunc", "0,1"), "both make columns"),
        (("mesh", "--set", "dataset.cube_scale=1"), "cannot be changed in a trained model"),
        (("metrics", "--data", "x", "--device", "mps"), "--device mps: choose from"),
    ],
)
def test_what_is_wrong_is_one_line(
    epigraf: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = epigraf(words[0], model, *words[1:])
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_out_of_memory_goes_on_with_smaller_tiles(
    epigraf: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok(epigraf("sample", model, "--seeds", 1, "--out", tmp_path / "a.png"))
    real = pictures_module.render_rays

    def short_of_memory(field: object, rays: object, *more: object, **named: object) -> object:
        if rays.directions.shape[1] > 100:  # type: ignore[attr-defined]
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")
        return real(field, rays, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(pictures_module, "render_rays", short_of_memory)
    result = epigraf("sample", model, "--seeds", 1, "--out", tmp_path / "b.png")
    ok(result)
    assert "out of memory: going on with tiles of 64 rays" in result.stderr
    assert np.array_equal(picture(tmp_path / "a.png"), picture(tmp_path / "b.png"))


def test_ctrl_c_in_a_film_leaves_nothing(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "epigraf", "video", str(model), "--frames", "10000"]
    words = ["--seeds", "0", "--resolution", "64", "--out", str(tmp_path / "a.mp4")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def heeds_ctrl_c() -> None:  # a background job of a shell inherits that it is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        [*command, *words], stderr=subprocess.PIPE, env=environment, preexec_fn=heeds_ctrl_c
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".a-*.mp4")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob(".a-*.mp4"))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.decode().endswith("stopped\n")
    assert list(tmp_path.iterdir()) == []
