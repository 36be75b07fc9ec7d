"""The procedural set: exact poses and depth (checked with the renderer's own rays), from a seed."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from epigraf.data.archive import Archive
from epigraf.data.doctor import check_dataset
from epigraf.data.images import ImageDataset
from epigraf.data.synthetic import HEIGHTS, camera_band, make_synthetic, read_depth
from epigraf.data.toys import TOYS, make_toy
from epigraf.data.tracing import BALL, camera_rays, distance_of, render_views
from epigraf.errors import DataError
from epigraf.rendering.camera import cam2world
from epigraf.rendering.rays import make_rays, pixel_directions

SIDES = np.array([[0.0, 1.3, 0.0], [math.pi, 1.3, 0.0], [1.0, 0.7, 0.0], [-2.0, 2.2, 0.0]])


def renderer_rays(angles: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Origins and directions [V, R R, 3] from the renderer."""
    poses = cam2world(torch.from_numpy(angles).double(), 1.0)
    local = pixel_directions(resolution, resolution, 30.0)
    rays = make_rays(poses, local.double().expand(len(angles), -1, -1))
    return rays.origins.numpy(), rays.directions.numpy()


def test_rays_are_the_renderers() -> None:
    origins, directions = camera_rays(SIDES, 9)
    expected_origins, expected_directions = renderer_rays(SIDES, 9)
    shape = expected_directions.shape
    assert np.allclose(directions.T.reshape(shape), expected_directions, atol=1e-6)
    expected_origins = np.broadcast_to(expected_origins, shape)
    assert np.allclose(origins.T.reshape(shape), expected_origins, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(TOYS))
def test_depth_lies_on_the_surface_inside_the_ball(kind: str) -> None:
    toy = make_toy(kind, 3)
    views = render_views(toy, SIDES, 24)
    origins, directions = renderer_rays(SIDES, 24)
    depth = views.depth.reshape(len(SIDES), -1, 1)
    hit = depth[..., 0] > 0
    points = (origins + directions * depth)[hit]
    assert np.linalg.norm(points, axis=1).max() <= BALL + 1e-3
    local = (points / toy.scale + toy.centre).T.astype(np.float32)
    assert np.abs(distance_of(toy.parts, local)).max() < 1e-3
    assert 0.08 < hit.mean() < 0.7
    background = views.images.reshape(len(SIDES), -1, 3)[views.coverage.reshape(4, -1) == 0]
    assert (background == 255).all()


@pytest.mark.parametrize("kind", sorted(TOYS))
def test_objects_of_a_kind_differ_in_shape_and_in_colour(kind: str) -> None:
    """Among ten objects: silhouettes from one side, and the mean colour of what they cover."""
    views = [render_views(make_toy(kind, seed), SIDES[:1], 24) for seed in range(10)]
    masks = np.array([view.depth[0] > 0 for view in views])
    overlap = [
        (masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum()
        for i in range(10)
        for j in range(i)
    ]
    assert 0.5 < np.mean(overlap) < 0.92  # one kind, but not one shape
    colours = np.array([v.images[0][m].mean(axis=0) for v, m in zip(views, masks, strict=True)])
    assert np.linalg.norm(colours.std(axis=0)) > 8


def test_colours_tell_kinds_apart() -> None:
    """The mean colour of an object is nearer to that of its own kind than to any other kind's."""
    colours = {}
    for kind in TOYS:
        views = [render_views(make_toy(kind, seed), SIDES, 24) for seed in range(8)]
        colours[kind] = np.array([view.images[view.depth > 0].mean(axis=0) for view in views])
    centres = np.array([found.mean(axis=0) for found in colours.values()])
    for number, found in enumerate(colours.values()):
        away = np.linalg.norm(found[:, None] - centres, axis=2)
        assert (away.argmin(axis=1) == number).mean() >= 0.75


@pytest.mark.parametrize("kind", sorted(TOYS))
def test_nothing_is_cut_off_and_front_is_not_back(kind: str) -> None:
    for seed in range(3):
        views = render_views(make_toy(kind, seed), SIDES, 24)
        border = np.stack([views.coverage[:, 0], views.coverage[:, -1]])
        assert not border.any()
        front, back = views.images[0].astype(int), views.images[1].astype(int)[:, ::-1]
        assert np.abs(front - back).max() > 60


def agreement(depth: np.ndarray, angles: np.ndarray) -> float:
    """Share of the points seen in view 0 at which view 1 sees (within a pixel) a surface no
    farther than they are, for two views [2, R, R] at angles [2, 3]."""
    side = depth.shape[1]
    origins, directions = renderer_rays(angles, side)
    hit = depth[0].reshape(-1) > 0
    points = (origins + directions * depth.reshape(2, -1, 1))[0][hit]
    pose = cam2world(torch.from_numpy(angles[1:]), 1.0).numpy()[0]
    local = (np.concatenate([points, np.ones((len(points), 1))], axis=1) @ np.linalg.inv(pose).T)[
        :, :3
    ]
    scale = -1 / (local[:, 2] * math.tan(math.radians(15)))
    column = np.rint((local[:, 0] * scale + 1) / 2 * (side - 1)).astype(int)
    row = np.rint((1 - local[:, 1] * scale) / 2 * (side - 1)).astype(int)
    near = np.where(depth[1] > 0, depth[1], np.inf)
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    seen = np.min([near[row + dy, column + dx] for dy, dx in shifts], axis=0)
    return float((seen <= np.linalg.norm(local, axis=1) + 0.01).mean())


def test_views_agree_in_space_and_mirrored_poses_do_not() -> None:
    angles = np.array([[0.4, 1.2, 0.0], [1.1, 1.4, 0.0]])
    mirrored = angles * [-1, 1, 1]
    right, wrong = [], []
    for kind in ("duck", "car", "teapot"):
        depth = render_views(make_toy(kind, 1), angles, 64).depth
        right.append(agreement(depth, angles))
        wrong.append(agreement(depth, mirrored))
    assert min(right) > 0.99
    assert np.mean(wrong) < np.mean(right) - 0.03


def test_a_set_is_read_back_whole(tmp_path: Path) -> None:
    made = make_synthetic(tmp_path / "toys.zip", num_objects=7, views=2, resolution=16, seed=5)
    assert made.num_images == 14
    assert check_dataset(made.path) == []
    data = ImageDataset(made.path, 16, use_labels=True)
    assert data.label_dim == len(made.classes) == 6
    assert data.label(data.names.index("00_mushroom/00006/001.png")).argmax() == 0
    depth = read_depth(made.path, "00_mushroom/00006")
    assert depth.shape == (2, 16, 16)
    item = data.names.index("00_mushroom/00006/001.png")
    white = (data.image(item) == 255).all(dim=0).numpy()
    assert (depth[1][white] == 0).all()
    assert 0.5 < (depth[1][~white] > 0).mean() <= 1  # the rest is the soft rim of the silhouette
    assert ((depth == 0) | ((depth > 0.75) & (depth < 1.25))).all()


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "a.zip", tmp_path / "b.zip", tmp_path / "c.zip"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        make_synthetic(path, num_objects=3, views=2, resolution=8, seed=seed)
    first, second, third = (path.read_bytes() for path in paths)
    assert first == second
    assert first != third
    folder = make_synthetic(tmp_path / "d", num_objects=3, views=2, resolution=8, seed=1).path
    with Archive(paths[0]) as zipped, Archive(folder) as plain:
        assert zipped.images == plain.images
        assert all(zipped.read(name) == plain.read(name) for name in zipped.images)


def test_objects_do_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    few = ImageDataset(make_synthetic(tmp_path / "few", 2, 2, 8).path)
    many = ImageDataset(make_synthetic(tmp_path / "many", 4, 2, 8).path)
    for name in few.names:
        pair = few.image(few.names.index(name)), many.image(many.names.index(name))
        assert torch.equal(*pair)


def test_cameras_go_all_around_and_are_evenly_high_within_their_band() -> None:
    angles = camera_band(4000, np.random.default_rng(0))
    low, high = HEIGHTS
    height = np.cos(angles[:, 1])
    assert low - 1e-6 <= height.min() < low + 0.01
    assert high - 0.01 < height.max() <= high + 1e-6
    assert np.histogram(height, 7)[0] == pytest.approx(4000 / 7, rel=0.15)
    assert np.abs(np.exp(1j * angles[:, 0]).mean()) < 0.05
    assert np.abs(angles[:, 0]).max() <= math.pi
    assert not angles[:, 2].any()


def test_refusals_say_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="objects and views must be >= 1, got 0 and 3"):
        make_synthetic(tmp_path / "a", 0, 3)
    with pytest.raises(DataError, match=r"resolution must be in 8\.\.1024, got 4"):
        make_synthetic(tmp_path / "a", 1, 1, 4)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        make_synthetic(tmp_path / "full", 1, 1, 8)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        make_synthetic(tmp_path / "file" / "b.zip", 1, 1, 8)
    (tmp_path / "mine.zip").write_bytes(b"years of work")
    with pytest.raises(DataError, match=r"mine\.zip exists"):
        make_synthetic(tmp_path / "mine.zip", 1, 1, 8)
    assert (tmp_path / "mine.zip").read_bytes() == b"years of work"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("epigraf.data.synthetic.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        make_synthetic(tmp_path / "a.zip", 1, 1, 8)
    assert list(tmp_path.iterdir()) == []
