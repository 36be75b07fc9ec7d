"""sample, video, mesh, data, info, metrics, train and demo, end to end on a very small model."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import trimesh
from PIL import Image
from typer.testing import Result

from epigraf.cli import demo as demo_module
from tests.cli.film import read_frames

Run = Callable[..., Result]

# what makes a training small enough for a test: two images a step, 16 pixels, narrow networks
SMALL_TRAINING = (
    "dataset.resolution=16", "training.patch.resolution=16",
    "model.generator.cmax=16", "model.generator.tri_plane.res=8",
    "model.generator.num_ray_steps=4", "model.generator.test_ray_steps=4",
    "model.discriminator.cmax=16", "training.batch_size=4", "training.tick=0.008",
    "training.image_snap=1", "training.threads=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A procedural set of six objects, made by the command itself."""
    from typer.testing import CliRunner

    from epigraf.cli.app import app

    out = tmp_path_factory.mktemp("data") / "shapes.zip"
    words = ["data", "synth", str(out), "--objects", "6", "--views", "3", "--resolution", "16"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "18 pictures of 6 objects" in result.output
    return out


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_sample_writes_a_grid_and_singles(epigraf: Run, model: Path, tmp_path: Path) -> None:
    result = epigraf("sample", model, "--seeds", "0-2,7", "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "s" / "grid.png") in result.output
    sheet = picture(tmp_path / "s" / "grid.png")
    assert sheet.shape == (32, 32, 3)
    cells = [sheet[:16, :16], sheet[:16, 16:], sheet[16:, :16], sheet[16:, 16:]]
    for seed, cell in zip([0, 1, 2, 7], cells, strict=True):
        assert np.array_equal(picture(tmp_path / "s" / f"seed{seed:04d}.png"), cell)


def test_sample_is_repeatable_and_views_make_rows(
    epigraf: Run, model: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        words = ("--seeds", "4", "--views", 3, "--resolution", 20, "--class", 1)
        assert epigraf("sample", model, *words, "--out", tmp_path / name).exit_code == 0
    first = picture(tmp_path / "a.png")
    assert first.shape == (20, 60, 3)
    assert np.array_equal(first, picture(tmp_path / "b.png"))
    assert not np.array_equal(first[:, :20], first[:, 20:40])


def test_sample_takes_the_snapshot_file_itself(epigraf: Run, model: Path, tmp_path: Path) -> None:
    snapshot = next(model.glob("*.safetensors"))
    out = tmp_path / "a.png"
    result = epigraf("sample", snapshot, "--seeds", 0, "--yaw", 1, "--pitch", 1, "--out", out)
    assert result.exit_code == 0
    assert picture(out).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "MODEL", "--seeds", "3-1"), "runs backwards"),
        (("sample", "MODEL", "--class", "3"), "this model has classes 0 to 2"),
        (("sample", "MODEL", "--out", "a.xyz"), "unknown image format"),
        (("sample", "MODEL", "--yaw", "nan"), "--yaw: must be a finite number, got nan"),
        (("sample", "MODEL", "--pitch", "inf"), "--pitch: must be a finite number, got inf"),
        (("mesh", "MODEL", "--level", "nan"), "--level: must be a finite number, got nan"),
        (("sample", "MODEL", "--views", "2", "--yaw", "1"), "place a single view"),
        (("video", "MODEL", "--out", "a.avi"), "films end in .mp4, .webp, .gif"),
        (("video", "MODEL", "--seeds", "0-2", "--grid", "2x2"), "needs 4 seeds, got 3"),
        (("video", "MODEL", "--seeds", "0-2", "--grid", "2x1", "--interp", "w"), "a multiple of 2"),
        (("mesh", "MODEL", "--seeds", "0,1", "--out", "a.ply"), "there are 2 seeds"),
        (("mesh", "MODEL", "--out", "a.abc"), "meshes end in .glb, .obj, .ply, .stl"),
        (("mesh", "MODEL", "--texture", "64", "--out", "a.ply"), "--texture: .ply holds none"),
        (("mesh", "MODEL", "--check", "--out", "a.mrc"), ".mrc is a volume"),
        (("mesh", "MODEL", "--bounds", "1,2"), "--bounds: cannot read '1,2'"),
        (("mesh", "MODEL", "--bounds", "0,0,0,0,1,1"), "x must have low < high"),
        (("mesh", "MODEL", "--against", "nowhere.ply"), "nowhere.ply: no such file"),
        (("mesh", "MODEL", "--format", "obj", "--out", "a.ply"), "disagree"),
        (("mesh", "MODEL", "--resolution", "8", "--level", "1e9"), "level"),
        (("info", "nowhere"), "no such file or folder"),
        (("train", "tiny"), "give --data PATH"),
        (("train", "tiny", "--data", "nowhere"), "nowhere"),
        (("train", "tiny", "--data", "x", "--minutes", "-1"), "training.minutes"),
        (("train", "tiny", "--data", "x", "--set", "gamma=1"), "training.gamma"),
        (("data", "check", "nowhere"), "nowhere"),
        (("data", "poses", "nowhere", "out.zip"), "nowhere"),
        (("data", "poses", "nowhere", "out.zip", "--top", "0.9"), "at least 0.05 below --top 0.9"),
        (("metrics", "MODEL", "--data", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    epigraf: Run,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = epigraf(*(model if word == "MODEL" else word for word in words))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_video_grid_with_depth(epigraf: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.mp4"
    words = (
        "--seeds",
        "0-1",
        "--grid",
        "1x2",
        "--outputs",
        "color,depth",
        "--frames",
        3,
        "--path",
        "circle",
    )
    result = epigraf("video", model, *words, "--out", out)
    assert result.exit_code == 0, result.output
    frames = read_frames(out)
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 3


@pytest.mark.parametrize("path", ["auto", "front-circle", "wiggle", "line", "points"])
def test_video_interpolates_in_a_loop(epigraf: Run, model: Path, tmp_path: Path, path: str) -> None:
    out = tmp_path / "v.webp"
    words = ("--seeds", "0-3", "--grid", "2x1", "--interp", "w", "--frames", 2, "--path", path)
    result = epigraf("video", model, *words, "--out", out)
    assert result.exit_code == 0, result.output
    with Image.open(out) as film:
        assert (film.n_frames, film.size) == (4, (32, 16))  # two seeds a cell, two steps each


def test_mesh_is_checked_against_volume_and_truth(
    epigraf: Run, model: Path, tmp_path: Path
) -> None:
    words = ("--resolution", 24, "--level", 0.2, "--keep", 1)
    assert epigraf("mesh", model, *words, "--out", tmp_path / "a.ply").exit_code == 0
    tests = ("--check", "--against", tmp_path / "a.ply", "--texture", 64, "--decimate", 500)
    result = epigraf("mesh", model, *words, *tests, "--smooth", 1, "--out", tmp_path / "b.glb")
    assert result.exit_code == 0, result.output
    assert "1 component, genus" in result.output
    assert "6 held-out views: silhouette IoU" in result.output
    assert "against a.ply: chamfer" in result.output
    assert picture(tmp_path / "b-check.png").shape == (3 * 130 - 2, 6 * 130 - 2, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ply", "b-check.png", "b.glb"]


def test_an_interrupted_mesh_goes_on(
    epigraf: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from epigraf.cli import mesh as mesh_module
    from epigraf.geometry.spool import Spool

    monkeypatch.setattr(mesh_module, "SPOOL_FROM", 70)
    written = Spool.write

    def once(self: Spool, start: int, piece: object) -> None:
        written(self, start, piece)
        raise KeyboardInterrupt

    words = ("mesh", model, "--resolution", 72, "--level", 0.2, "--out", tmp_path / "a.ply")
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "write", once)
        result = epigraf(*words)
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr
    result = epigraf(*words)
    assert result.exit_code == 0, result.output
    assert "going on after 1 finished layers" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize("ending", ["ply", "obj", "glb"])
def test_mesh_formats(epigraf: Run, model: Path, tmp_path: Path, ending: str) -> None:
    result = epigraf(
        "mesh", model, "--resolution", 16, "--format", ending, "--level", -0.05, "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    surface = trimesh.load(tmp_path / f"seed0000.{ending}", force="mesh", process=False)
    assert len(surface.faces) > 0
    assert f"{len(surface.faces)} faces" in result.output
    assert np.linalg.norm(surface.vertices, axis=1).max() < 0.25 * 1.05  # inside the object ball


def test_mesh_as_volume(epigraf: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.mrc"
    result = epigraf("mesh", model, "--resolution", 8, "--out", out)
    assert result.exit_code == 0, result.output
    with mrcfile.open(out) as file:
        assert file.data.shape == (8, 8, 8)
        assert file.data.dtype == np.float32


def test_data_check(epigraf: Run, shapes: Path, tmp_path: Path) -> None:
    result = epigraf("data", "check", shapes)
    assert result.exit_code == 0, result.output
    assert "18 pictures of 16x16, poses, labels of width 6: good to train on" in result.stdout
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"no picture")
    (bad / "b.png").write_bytes(b"no picture either")
    result = epigraf("data", "check", bad)
    assert result.exit_code == 1
    assert "a.png" in result.stdout
    assert "b.png" in result.stdout
    assert "a training would refuse this set" in result.stderr


def test_info(epigraf: Run, model: Path) -> None:
    result = epigraf("info", model)
    assert result.exit_code == 0, result.output
    for text in ("backend", "torch ", "small", "3.0 kimg", "planes 3x4x8x8", "16x16"):
        assert text in result.output


def test_metrics(epigraf: Run, model: Path, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    trained = _train(epigraf, shapes, tmp_path)
    result = epigraf("metrics", trained, "--data", shapes, "--samples", 8, "--out", out)
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["card"]["num_fakes"] == 8
    for name, value in record["values"].items():
        assert f"{name:<18} {value:.5g}" in result.stdout
    # a model of three classes cannot be compared with a set of six
    result = epigraf("metrics", model, "--data", shapes, "--samples", 8)
    assert result.exit_code == 1
    assert "classes" in result.stderr


def _small_words(kimg: float) -> list[str]:
    changes = [*SMALL_TRAINING, f"training.kimg={kimg}"]
    return [word for change in changes for word in ("--set", change)]


def _train(epigraf: Run, shapes: Path, out: Path, *words: str, kimg: float = 0.008) -> Path:
    result = epigraf("train", "tiny", "--data", shapes, "--out", out, *_small_words(kimg), *words)
    assert result.exit_code == 0, result.output
    return max(out.glob("0*-tiny-*"))


def test_train_dry_run_leaves_nothing(epigraf: Run, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    words = ("--data", shapes, "--out", out, "--dry-run", "--desc", "try")
    words += ("--set", "training.gamma=3", "--set", "dataset.resolution=16")
    words += ("--set", "training.patch.resolution=16")
    result = epigraf("train", "tiny", *words)
    assert result.exit_code == 0, result.output
    assert "3 (as configured)" in result.output
    assert "tiny-shapes-batch8-gamma3-try" in result.output
    assert not out.exists()


def test_train_dry_run_checks_resume_and_out(epigraf: Run, shapes: Path, tmp_path: Path) -> None:
    folder = _train(epigraf, shapes, tmp_path)
    words = ("train", "tiny", "--data", shapes, "--dry-run", *_small_words(0.008))
    result = epigraf(*words, "--out", tmp_path, "--resume", "latest")
    assert result.exit_code == 0, result.output
    assert f"run folder {folder} (dry run" in result.stdout
    assert str(folder / "network-snapshot-000000.safetensors") in result.stdout
    assert "resume: changed" not in result.stdout
    two = ("--resume", "latest", "--gpus", "2", "--batch", "8", "--batch-gpu", "2")
    result = epigraf(*words, "--out", tmp_path, *two)
    assert "8 images a step = 2 processes x 4, 2 a pass, 2 to a step" in result.stdout
    changes = [line for line in result.stdout.splitlines() if line.startswith("resume: changed")]
    assert changes == [
        "resume: changed training.batch_gpu null -> 2",
        "resume: changed training.batch_size 4 -> 8",
    ]
    result = epigraf(*words, "--out", tmp_path, "--resume", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "no such file or folder" in result.stderr
    narrow = ("--set", "model.generator.cmax=8")
    result = epigraf(*words, *narrow, "--out", tmp_path, "--resume", "latest")
    assert "was trained with model.generator.cmax=16" in result.stderr
    result = epigraf(*words, "--out", shapes / "runs")
    assert result.exit_code == 1
    assert f"{shapes} is a file, not a folder" in result.stderr


def test_train_then_resume(epigraf: Run, shapes: Path, tmp_path: Path) -> None:
    folder = _train(epigraf, shapes, tmp_path, "--seed", "5")
    assert folder.name.startswith("00000-tiny-shapes-batch4")
    options = json.loads((folder / "training_options.json").read_text())
    assert options["training"]["seed"] == 5
    again = _train(epigraf, shapes, tmp_path, "--seed", "5", "--resume", "latest", kimg=0.016)
    assert again == folder
    rows = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    assert [row["Progress/images"] for row in rows] == [8, 16]


def test_demo_leaves_what_it_promises(
    epigraf: Run, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mini.yaml"
    config.write_text(epigraf("configs", "tiny", *_small_words(0.008)).stdout)
    for name, value in {"SIDE": 16, "FRAMES": 8, "CELLS": 6, "MESH_RESOLUTION": 12}.items():
        monkeypatch.setattr(demo_module, name, value)
    out = tmp_path / "out"
    result = epigraf("demo", "--config", config, "--data", shapes, "--minutes", 0.2, "--out", out)
    assert result.exit_code == 0, result.output
    names = {path.name for path in out.iterdir()}
    media = {"samples.png", "turns.png", "turntable.mp4", "turntable.webp", "growth.png"}
    assert names == media | {"index.html", "object.glb", "curve.png", "runs"}
    assert picture(out / "turns.png").shape == (6 * 16, 8 * 16, 3)  # a row a kind
    magic, _, length = struct.unpack("<4sII", (out / "object.glb").read_bytes()[:12])
    assert (magic, length) == (b"glTF", (out / "object.glb").stat().st_size)
    assert picture(out / "samples.png").shape == (6 * 16, 6 * 16, 3)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "Seeds 0 to 35 in order" in page
    assert "one kind a row: mushroom, duck, rocket, car, bear, teapot" in page
    assert "A turntable of 6 generated objects" in page
    assert f"--data {shapes.resolve()} --minutes 60" in page  # not beside the page
