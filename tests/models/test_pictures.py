"""Pictures tile by tile: against the generator itself, crops, memory that runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from epigraf.config import Config
from epigraf.models import pictures
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, Image, View
from epigraf.models.pictures import (
    Output,
    Scene,
    cameras_of,
    render_picture,
    scene_of,
)
from epigraf.models.sampling import styles_from_seeds
from epigraf.rendering.budget import RayBudget
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.frame import Box, Frame
from epigraf.rendering.options import activate_density
from epigraf.rendering.trajectories import CameraPath, still

ALL = tuple(output for output in Output if output is not Output.BACKGROUND)
FOV, YAW, PITCH = 30.0, 0.4, 1.2
ANGLES = torch.tensor([[YAW, PITCH, 0.0]])
PATH = still(FOV, yaw=YAW, pitch=PITCH)


def small(**changes: Any) -> Generator:
    """A very small model; `changes` by dotted key."""
    torch.manual_seed(0)
    values = {
        "dataset": {"resolution": 8, "white_back": True, "cube_scale": 0.5},
        "model": {
            "generator": {
                "z_dim": 8,
                "w_dim": 12,
                "map_lr_multiplier": 1.0,
                "cmax": 8,
                "num_ray_steps": 4,
                "density_gain": 5.0,
                "last_interval": "finite",
                "tri_plane": {"res": 8, "feat_dim": 4, "mlp": {"hid_dim": 8}},
            }
        },
        "training": {"patch": {"enabled": False}},
    }
    cfg = Config.from_dict(values).with_overrides([f"{k}={v}" for k, v in changes.items()])
    return Generator(cfg).eval().requires_grad_(False)


def scene(**changes: Any) -> Scene:
    generator = small(**changes)
    return scene_of(generator, styles_from_seeds(generator, [3]))


def shown(of: Scene, side: int, **view: Any) -> Image:
    """The same view by the generator's own way, which the reference cases check."""
    return of.generator.synthesis(
        of.ws, ANGLES, View(fov=FOV, resolution=side, deterministic=True, **view),
        noise_mode=NoiseMode.CONST, draws=RandomDraws(9),
    )  # fmt: skip


@pytest.mark.parametrize("target", ["[0, 0, 0]", "[0.06, 0.02, -0.03]"])
def test_outputs_are_those_of_the_generator(target: str) -> None:
    one = scene(**{"dataset.camera.target": target})
    got = render_picture(one, cameras_of(one, PATH)[0], Frame(9), ALL)
    expected = shown(one, 9)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(got[Output.COLOR], expected.image[0], **close)
    torch.testing.assert_close(got[Output.RAW_DEPTH], expected.depth[0], **close)
    torch.testing.assert_close(got[Output.OPACITY], expected.opacity[0], **close)
    opacity = expected.opacity[0]
    torch.testing.assert_close(got[Output.DEPTH] * opacity, expected.depth[0], **close)
    assert float(opacity.min()) > 0.1
    color, alpha = got[Output.FOREGROUND].split([3, 1])
    torch.testing.assert_close(alpha, opacity, **close)
    torch.testing.assert_close(color * alpha + (1 - alpha), expected.image[0], **close)  # on white


def test_an_empty_scene_has_no_depth() -> None:
    one = scene(**{"model.generator.density_shift": -200.0})
    got = render_picture(one, cameras_of(one, PATH)[0], Frame(4), ALL)
    for output in (Output.DEPTH, Output.OPACITY, Output.FOREGROUND, Output.NORMAL):
        assert float(got[output].abs().max()) < 1e-6
    assert torch.equal(got[Output.COLOR], torch.ones(3, 4, 4))  # white


@pytest.mark.parametrize("kind", ["sphere", "plane"])
def test_foreground_and_background_apart(kind: str) -> None:
    changes = {"model.generator.bg_model.type": kind, "model.generator.last_interval": "auto"}
    one = scene(**changes, **{"dataset.white_back": "false"})
    wanted = (Output.COLOR, Output.FOREGROUND, Output.BACKGROUND)
    for side in (8, 5):
        got = render_picture(one, cameras_of(one, PATH)[0], Frame(side), wanted)
        close = {"atol": 2e-5, "rtol": 0}
        torch.testing.assert_close(got[Output.COLOR], shown(one, side).image[0], **close)
        front = shown(one, side, ignore_bg=True).image[0]
        color, alpha = got[Output.FOREGROUND].split([3, 1])
        torch.testing.assert_close(color * alpha, front, **close)
        if side == 8 or kind == "sphere":  # a flat picture of 8 pixels is resized in one step here
            behind = shown(one, side, bg_only=True).image[0]
            torch.testing.assert_close(got[Output.BACKGROUND], behind, **close)
    crop = render_picture(one, cameras_of(one, PATH)[0], Frame(8, Box(2, 1, 3, 4)), wanted)
    whole = render_picture(one, cameras_of(one, PATH)[0], Frame(8), wanted)
    for output in wanted:
        torch.testing.assert_close(crop[output], whole[output][:, 1:5, 2:5], atol=2e-6, rtol=0)


def test_no_background_to_show() -> None:
    one = scene()
    with pytest.raises(ValueError, match="needs a background model"):
        render_picture(one, cameras_of(one, PATH)[0], Frame(4), [Output.BACKGROUND])


@pytest.mark.parametrize("backend", ["fused", "ops"])
def test_crops_and_tiles_are_the_whole_picture(backend: str) -> None:
    one = scene(**{"render.backend": backend})
    camera = cameras_of(one, PATH)[0]
    whole = render_picture(one, camera, Frame(11), ALL)
    for box, rays in ((Box(3, 2, 7, 5), 1 << 18), (Box(0, 0, 11, 11), 37), (Box(10, 10, 1, 1), 5)):
        part = render_picture(one, camera, Frame(11, box), ALL, budget=RayBudget(rays))
        for output in ALL:
            y, x = box.top, box.left
            expected = whole[output][:, y : y + box.height, x : x + box.width]
            torch.testing.assert_close(part[output], expected, atol=5e-6, rtol=0)


def test_a_crop_is_bit_equal_where_rays_are_marched_alike() -> None:
    """Above a few hundred rays the fused renderer projects these planes; so do whole and crop."""
    one = scene()
    camera = cameras_of(one, PATH)[0]
    whole = render_picture(one, camera, Frame(40), [Output.COLOR, Output.DEPTH])
    crop = render_picture(one, camera, Frame(40, Box(5, 6, 30, 29)), [Output.COLOR, Output.DEPTH])
    for output, part in crop.items():
        assert torch.equal(part, whole[output][:, 6:35, 5:35])


def test_supersampling_is_the_mean_of_a_finer_picture() -> None:
    """Rays of 3 x 3 a pixel at side S are those of a picture whose pixels are a third as far
    apart: its middle ones are the rays of the coarse picture."""
    one = scene()
    camera = cameras_of(one, PATH)[0]
    coarse = render_picture(one, camera, Frame(5, Box(1, 1, 3, 3), supersample=3), ALL)
    fine = render_picture(one, camera, Frame(13), ALL)  # 12 intervals for 4
    for output in (Output.COLOR, Output.RAW_DEPTH, Output.OPACITY, Output.DENSITY, Output.NORMAL):
        box = fine[output][:, 2:11, 2:11].unflatten(1, (3, 3)).unflatten(3, (3, 3))
        torch.testing.assert_close(coarse[output], box.mean((2, 4)), atol=1e-5, rtol=0)


def test_density_in_the_plane_through_the_origin() -> None:
    one = scene()
    camera = cameras_of(one, PATH)[0]
    got = render_picture(one, camera, Frame(5), [Output.DENSITY])[Output.DENSITY]
    matrix, reach = camera.matrix[0], torch.tan(torch.deg2rad(torch.tensor(FOV / 2)))
    for row, column in ((2, 2), (0, 4), (3, 1)):
        right, up = matrix[:3, 0] * (column / 2 - 1), matrix[:3, 1] * (1 - row / 2)
        point = (right + up) * reach  # the camera stands at distance 1
        raw = one.field.density_raw(point[None, None])
        expected = activate_density(raw, one.generator.render_options(View()))
        assert float(got[0, row, column]) == pytest.approx(float(expected), rel=1e-4)


def test_a_camera_farther_away_still_reaches_the_object() -> None:
    one = scene()
    far = CameraPath(PATH.angles, torch.tensor([8.0]).double(), torch.tensor([4.0]).double())
    got = render_picture(one, cameras_of(one, far)[0], Frame(5), [Output.DEPTH, Output.OPACITY])
    assert float(got[Output.OPACITY].min()) > 0.1
    camera = one.generator.cfg.dataset.camera
    assert camera.ray_start + 3 < float(got[Output.DEPTH].mean()) < camera.ray_end + 3


def failing(above: int, error: BaseException) -> Callable[..., Any]:
    """`render_rays` of a machine whose memory holds `above` rays."""
    real = pictures.render_rays

    def render_rays(field: Any, rays: Any, options: Any, **more: Any) -> Any:
        if rays.directions.shape[1] > above:
            raise error
        return real(field, rays, options, **more)

    return render_rays


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried")])
def test_out_of_memory_halves_the_tile_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    one = scene()
    camera = cameras_of(one, PATH)[0]
    wanted = (Output.COLOR, Output.DEPTH)
    expected = render_picture(one, camera, Frame(12), wanted)
    monkeypatch.setattr(pictures, "render_rays", failing(20, error))
    said, shares = [], []
    budget = RayBudget(64, say=said.append)
    got = render_picture(one, camera, Frame(12), wanted, budget=budget, on_tile=shares.append)
    for output in wanted:
        torch.testing.assert_close(got[output], expected[output], atol=5e-6, rtol=0)
    assert said == [f"out of memory: going on with tiles of {rays} rays" for rays in (32, 16)]
    assert sum(shares) == pytest.approx(1)
    assert budget.rays == 16


def test_other_errors_and_memory_that_never_suffices_are_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = scene()
    for error in (MemoryError(), RuntimeError("shapes differ")):
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "render_rays", failing(0, error))
            with pytest.raises(type(error)):
                render_picture(one, cameras_of(one, PATH)[0], Frame(4))
