"""The generator's views: what must agree with what, for every kind of model."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch

from epigraf.config import Config, RenderBackend
from epigraf.errors import ConfigError
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, View
from epigraf.ops import available, reason, tinycudann
from epigraf.rendering.camera import cam2world
from epigraf.rendering.draws import RandomDraws
from epigraf.rendering.patches import PatchParams
from epigraf.rendering.rays import patch_rays
from tests.ops import tiny_cuda_nn_stand_in

ANGLES = torch.tensor([[0.4, 1.2, 0.0], [-2.0, 1.9, 0.0]])


def config(generator: dict | None = None, dataset: dict | None = None, **training: Any) -> Config:
    g = {
        "z_dim": 6, "w_dim": 7, "cbase": 64, "cmax": 8, "num_ray_steps": 5,
        "tri_plane": {"res": 8, "feat_dim": 3, "mlp": {"hid_dim": 6}},
        "bg_model": {"cmax": 6, "num_steps": 4},
    }  # fmt: skip
    for key, value in (generator or {}).items():
        g[key] = {**g[key], **value} if isinstance(value, dict) else value
    data = {"resolution": 16, "cube_scale": 0.4, "camera": {"fov": 30.0}, **(dataset or {})}
    train = {"patch": {"resolution": 8}, "batch_size": 4, **training}
    return Config.from_dict({"model": {"generator": g}, "dataset": data, "training": train})


def make(cfg: Config, train: bool = False) -> Generator:
    torch.manual_seed(0)
    generator = Generator(cfg)
    with torch.no_grad():
        for name, p in generator.named_parameters():
            if name.endswith(("bias", "noise_strength")):
                p.add_(torch.randn_like(p) * 0.5)
    return generator.train(train)


def styles(generator: Generator, n: int = 2) -> torch.Tensor:
    return torch.randn(
        n, generator.num_ws, generator.w_dim, generator=torch.Generator().manual_seed(1)
    )


def render(generator: Generator, view: View, ws: torch.Tensor | None = None, seed: int = 0):
    ws = styles(generator) if ws is None else ws
    with torch.no_grad():
        return generator.synthesis(
            ws, ANGLES[: len(ws)], view, noise_mode=NoiseMode.CONST, draws=RandomDraws(seed)
        )


SPHERE = {"bg_model": {"type": "sphere"}}
PLANE = {"bg_model": {"type": "plane"}}


def test_sizes_in_training_and_evaluation() -> None:
    generator = make(config(), train=True)
    assert render(generator, View()).image.shape == (2, 3, 8, 8)
    image = render(generator.eval(), View())
    assert image.image.shape == (2, 3, 16, 16)
    assert image.depth.shape == (2, 1, 16, 16)
    assert image.opacity.shape == (2, 1, 16, 16)
    assert image.foreground is image.image
    assert render(generator, View(resolution=5)).image.shape == (2, 3, 5, 5)
    whole = make(config(patch={"enabled": False}), train=True)
    assert render(whole, View()).image.shape == (2, 3, 16, 16)


def test_numbers_of_latents() -> None:
    # Planes of 8: one block with one convolution, one with two, and the last output.
    assert make(config()).num_ws == 4
    assert make(config(SPHERE)).num_ws == 8
    plane = make(config(PLANE))
    assert plane.num_ws == 4
    assert plane.planes(styles(plane), NoiseMode.NONE).shape == (2, 12, 8, 8)


@pytest.mark.parametrize("extra", [{}, SPHERE, PLANE])
def test_a_patch_shows_the_pixels_of_the_whole(extra: dict) -> None:
    # Of 9 x 9 pixels the patch takes columns 2..6 and every second row, bottom up from 0.
    cfg = config({**extra, "tri_plane": {"has_view_cond": True}}, {"resolution": 16})
    generator = make(cfg)
    generator.img_resolution = 9
    whole = render(generator, View(deterministic=True, resolution=9)).image
    patch = PatchParams(torch.tensor([[0.5, 1.0]] * 2), torch.tensor([[0.25, 0.0]] * 2))
    part = render(generator, View(deterministic=True, resolution=5, patch=patch)).image
    torch.testing.assert_close(part, whole[:, :, ::2, 2:7], atol=1e-4, rtol=1e-4)


def test_each_sample_has_its_own_fov() -> None:
    generator = make(config(), train=False)
    ws = styles(generator)
    both = render(generator, View(fov=torch.tensor([12.0, 40.0]), deterministic=True))
    for b, fov in enumerate((12.0, 40.0)):
        with torch.no_grad():
            one = generator.synthesis(
                ws[b : b + 1], ANGLES[b : b + 1], View(fov=fov, deterministic=True),
                noise_mode=NoiseMode.CONST, draws=RandomDraws(0),
            )  # fmt: skip
        torch.testing.assert_close(both.image[b : b + 1], one.image, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("extra", [SPHERE, PLANE])
def test_the_background_shows_through_what_is_left(extra: dict) -> None:
    generator = make(config({**extra, "density_shift": -3.0}))
    trace: dict = {}
    with torch.no_grad():
        image = generator.synthesis(
            styles(generator), ANGLES, View(), noise_mode=NoiseMode.CONST, draws=RandomDraws(0),
            trace=trace,
        )  # fmt: skip
    behind = render(generator, View(bg_only=True)).image
    without = render(generator, View(ignore_bg=True)).image
    light = trace["final_final_transmittance"].view(2, 1, 16, 16)
    torch.testing.assert_close(without, image.foreground)
    torch.testing.assert_close(image.image, without + light * behind, atol=1e-5, rtol=1e-5)
    assert (image.image - without).abs().max() > 0.01


def test_the_sphere_is_seen_along_the_rays_with_the_last_latents() -> None:
    generator = make(config(SPHERE))
    ws = styles(generator)
    behind = render(generator, View(bg_only=True)).image
    rays = patch_rays(cam2world(ANGLES, 1.0), 16, 16, 30.0)
    with torch.no_grad():
        expected = generator.background(ws[:, -4:], rays, jitter=False, draws=RandomDraws(0))
    torch.testing.assert_close(behind.flatten(2).transpose(1, 2), expected)


def test_the_plane_is_the_last_channels() -> None:
    generator = make(config(PLANE))
    behind = render(generator, View(bg_only=True, resolution=8)).image
    planes = generator.planes(styles(generator), NoiseMode.CONST)
    torch.testing.assert_close(behind, planes[:, -3:].detach())


def test_a_background_alone_needs_one() -> None:
    with pytest.raises(ValueError, match="bg_only needs a background"):
        render(make(config()), View(bg_only=True))
    with pytest.raises(ValueError, match="bg_only needs a background"):
        render(make(config(SPHERE)), View(bg_only=True, ignore_bg=True))


def test_the_same_draws_give_the_same_picture_and_deterministic_needs_none() -> None:
    generator = make(config())
    a, b, c = (render(generator, View(), seed=seed).image for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    d, e = (render(generator, View(deterministic=True), seed=seed).image for seed in (1, 2))
    assert torch.equal(d, e)


@pytest.mark.parametrize("extra", [{}, SPHERE, PLANE])
def test_chunks_change_nothing(extra: dict) -> None:
    generator = make(config(extra))
    whole, parts = (render(generator, View(max_rays=n)) for n in (10**6, 50))
    torch.testing.assert_close(whole.image, parts.image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.depth, parts.depth, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "coarse", "fine", "train"),
    [
        ({}, 5, 5, False),
        ({"num_fine_steps": 0}, 5, 0, False),
        ({"num_fine_steps": 2}, 5, 2, True),
        ({"test_ray_steps": 9}, 9, 9, False),
        ({"test_ray_steps": 9}, 5, 5, True),
        ({"num_fine_steps": 0, "test_ray_steps": 9}, 9, 0, False),
        ({"num_fine_steps": 0, "test_ray_steps": 9, "test_fine_steps": 4}, 9, 4, False),
        ({"num_fine_steps": 0, "test_ray_steps": 9, "test_fine_steps": 4}, 5, 0, True),
    ],
)
def test_samples_per_ray(steps: dict, coarse: int, fine: int, train: bool) -> None:
    options = make(config(steps), train).render_options(View())
    assert (options.num_coarse, options.num_fine) == (coarse, fine)


def test_the_callers_angles_stay_and_poles_are_finite() -> None:
    generator = make(config(SPHERE))
    angles = torch.tensor([[0.3, 0.0, 0.0], [0.3, math.pi, 0.0]])
    before = angles.clone()
    with torch.no_grad():
        image = generator.synthesis(styles(generator), angles, draws=RandomDraws(0)).image
    assert torch.equal(angles, before)
    assert image.isfinite().all()


def test_camera_conditioning() -> None:
    generator = make(config({"camera_cond": True}))
    z = torch.randn(2, 6)
    ws = generator.mapping(z, None, ANGLES)
    assert not torch.allclose(ws, generator.mapping(z, None, ANGLES.flip(0)))
    forward = ANGLES.abs()
    turned = forward + torch.tensor([2 * math.pi, 0.0, 5.0])  # a full turn, and roll, say nothing
    torch.testing.assert_close(
        generator.mapping(z, None, forward),
        generator.mapping(z, None, turned),
        atol=1e-5,
        rtol=1e-4,
    )
    mean = generator.mapping.mean_camera_pose.expand(2, 3)
    torch.testing.assert_close(generator.mapping(z, None), generator.mapping(z, None, mean))
    with pytest.raises(ValueError, match="camera conditioning needs camera_angles"):
        generator.train().mapping(z, None)


def test_labels() -> None:
    generator = make(config(dataset={"c_dim": 3}, use_labels=True))
    assert generator.c_dim == 3
    z, c = torch.randn(1, 6).expand(3, 6), torch.eye(3)
    ws = generator.mapping(z, c)
    assert (ws[0] - ws[1]).abs().max() > 1e-4
    assert make(config(dataset={"c_dim": 3})).c_dim == 0


def test_forward_is_mapping_and_synthesis() -> None:
    generator = make(config({"camera_cond": True}))
    z = torch.randn(2, 6)
    with torch.no_grad():
        whole = generator(z, None, ANGLES, ANGLES, truncation_psi=0.7, draws=RandomDraws(0))
        ws = generator.mapping(z, None, ANGLES, truncation_psi=0.7)
        parts = generator.synthesis(ws, ANGLES, draws=RandomDraws(0))
    torch.testing.assert_close(whole.image, parts.image)


def test_density_needs_no_camera() -> None:
    generator = make(config(SPHERE))
    planes = generator.planes(styles(generator), NoiseMode.CONST).detach()
    points = torch.rand(2, 10, 3) - 0.5
    field = generator.field(planes)
    with torch.no_grad():
        torch.testing.assert_close(field.density_raw(points), field(points, points).densities)


@pytest.mark.parametrize(
    "extra", [{}, SPHERE, PLANE, {"num_fine_steps": 0, "last_interval": "finite"}]
)
def test_path_length_gradients_can_be_differentiated(extra: dict) -> None:
    generator = make(config(extra), train=True)
    ws = styles(generator).requires_grad_()
    view = View(second_order=True)
    image = generator.synthesis(ws, ANGLES, view, draws=RandomDraws(0)).image
    (slope,) = torch.autograd.grad((image * torch.randn_like(image)).sum(), ws, create_graph=True)
    slope.square().sum().backward()
    grads = [p.grad for n, p in generator.named_parameters() if n.startswith("backbone")]
    assert all(g is None or g.isfinite().all() for g in grads)
    assert any(g is not None and g.abs().max() > 0 for g in grads)


def test_object_ball_leaves_the_rest_to_the_background() -> None:
    cfg = config({"num_fine_steps": 0}, {"object_radius": 0.1, "white_back": True})
    image = render(make(cfg), View())
    outside = image.opacity[:, 0, 0, 0]
    assert torch.equal(outside, torch.zeros(2))
    assert image.opacity[:, 0, 8, 8].min() > 0
    torch.testing.assert_close(image.image[:, :, 0, 0], torch.ones(2, 3))


def test_cameras_look_at_their_target() -> None:
    # A ball at the origin, seen from +x past a target at z = 0.05: right is -z, so its centre lies
    # 0.05 to the right of the middle at distance 1, of a picture 2 tan(15 degrees) wide.
    generator = {"density_prior_radius": 0.03, "density_prior_strength": 300.0}
    cfg = config(
        {**generator, "last_interval": "finite", "num_ray_steps": 65, "density_gain": 100.0},
        {"resolution": 64, "camera": {"fov": 30.0, "target": [0.0, 0.0, 0.05]}},
    )
    front = torch.tensor([[0.0, math.pi / 2, 0.0]])
    model = make(cfg).eval()
    with torch.no_grad():
        opacity = model.synthesis(
            styles(model, 1), front, View(deterministic=True), draws=RandomDraws(0)
        ).opacity[0, 0]
    columns = torch.linspace(-1, 1, 64) * math.tan(math.radians(15))
    assert float(opacity.max()) == pytest.approx(1, abs=1e-3)
    middle = (opacity.sum(0) * columns).sum() / opacity.sum()
    assert float(middle) == pytest.approx(0.05, abs=0.002)


def test_the_model_says_what_marches_its_rays() -> None:
    fused = "fused" if available() else f"ops ({reason()})"
    assert make(config()).renderer() == fused
    assert make(config().with_overrides(["render.backend=ops"])).renderer().startswith("ops (")
    posenc = config({"tri_plane": {"posenc_period_len": 2.0}})
    assert "posenc" in make(posenc).renderer() or not available()


@pytest.mark.parametrize("extra", [{}, SPHERE, PLANE, {"last_interval": "finite"}])
def test_every_backend_renders_the_same_and_learns_the_same(extra: dict) -> None:
    pictures, slopes = [], []
    for backend in RenderBackend:
        generator = make(config(extra).with_overrides([f"render.backend={backend.value}"]), True)
        generator.double()
        image = generator.synthesis(
            styles(generator).double(), ANGLES.double(), draws=RandomDraws(0)
        ).image
        image.square().sum().backward()
        pictures.append(image.detach())
        slopes.append(torch.cat([p.grad.flatten() for p in generator.decoder.parameters()]))
    for picture, slope in zip(pictures[1:], slopes[1:], strict=True):
        torch.testing.assert_close(picture, pictures[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(slope, slopes[0], rtol=0, atol=1e-8 * float(slope.abs().max()))


@pytest.mark.parametrize("extra", [{}, SPHERE, {"last_interval": "finite"}])
def test_nerfacc_composites_the_same_picture(extra: dict) -> None:
    pytest.importorskip("nerfacc")
    ours = make(config(extra)).double()
    theirs = make(config(extra).with_overrides(["render.compositor=nerfacc"])).double()
    assert "render.compositor=nerfacc" in theirs.renderer() or not available()
    views = [
        g.synthesis(styles(g).double(), ANGLES.double(), draws=RandomDraws(0))
        for g in (ours, theirs)
    ]
    torch.testing.assert_close(views[1].image, views[0].image, rtol=0, atol=1e-6)
    torch.testing.assert_close(views[1].opacity, views[0].opacity, rtol=0, atol=1e-6)


def test_a_decoder_engine_that_is_not_there_is_an_error_not_a_choice() -> None:
    generator = make(config().with_overrides(["decoder.engine=tinycudann"]))
    with pytest.raises(RuntimeError, match=r"tinycudann: .*decoder\.engine=native"):
        render(generator, View())


def test_a_decoder_engine_of_half_precision_renders_nearly_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", tiny_cuda_nn_stand_in)
    monkeypatch.setattr(tinycudann, "DEVICE", "cpu")
    tinycudann._found.cache_clear()
    try:
        other = make(config().with_overrides(["decoder.engine=tinycudann"]))
        pictures = [render(g, View(deterministic=True)).image for g in (make(config()), other)]
    finally:
        tinycudann._found.cache_clear()
        tinycudann._network.cache_clear()
    assert "decoder.engine" in other.renderer() or not available()
    assert not torch.equal(*pictures)
    torch.testing.assert_close(*pictures, rtol=0, atol=2e-2)


def test_half_precision_cannot_be_differentiated_twice() -> None:
    with pytest.raises(ConfigError, match="no second derivatives"):
        config().with_overrides(["decoder.engine=tinycudann", "model.loss_kwargs.pl_weight=2"])
