"""EG3D snapshots: the imported field and pictures against EG3D's formulas, in float64.

The oracle uses EG3D's own conventions throughout: cameras by its angles, pixel centres, planes by
inverse projection and without aligned corners, density first, softplus, sigmoid, midpoints.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epigraf.errors import CheckpointError
from epigraf.interop.importer import import_model
from epigraf.models.backbone import NoiseMode, TriPlaneBackbone
from epigraf.models.generator import View
from epigraf.models.loading import load
from epigraf.rendering.draws import RandomDraws
from tests.interop.released import dumps, network, node, write

Z, W, SIDE, FEATURES, HIDDEN, PLANE, STEPS = 6, 8, 8, 4, 10, 8, 24
OPTIONS = {
    "depth_resolution": STEPS, "depth_resolution_importance": STEPS, "ray_start": 2.25,
    "ray_end": 3.3, "box_warp": 1, "avg_camera_radius": 2.7, "avg_camera_pivot": [0, 0, 0.2],
    "disparity_space_sampling": False, "clamp_mode": "softplus", "c_scale": 1.0,
    "c_gen_conditioning_zero": False,
}  # fmt: skip
LEGACY = [[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
          [[0, 0, 1], [1, 0, 0], [0, 1, 0]]]  # fmt: skip
LATER = [*LEGACY[:2], [[0, 0, 1], [0, 1, 0], [1, 0, 0]]]


class Eg3d:
    """A small EG3D generator and what it renders."""

    def __init__(self, axes: list[Any] = LEGACY, **options: Any) -> None:
        torch.manual_seed(0)
        self.options, self.axes = {**OPTIONS, **options}, torch.tensor(axes, dtype=torch.float32)
        self.backbone = TriPlaneBackbone(
            W, PLANE, 3 * FEATURES, channel_base=64, channel_max=12, use_noise=True
        )
        with torch.no_grad():
            for tensor in self.backbone.state_dict().values():
                tensor.add_(torch.randn_like(tensor), alpha=0.2)
        shapes = {
            "backbone.mapping.embed.weight": (W, 25), "backbone.mapping.embed.bias": (W,),
            "backbone.mapping.fc0.weight": (W, Z + W), "backbone.mapping.fc0.bias": (W,),
            "backbone.mapping.fc1.weight": (W, W), "backbone.mapping.fc1.bias": (W,),
            "decoder.net.0.weight": (HIDDEN, FEATURES), "decoder.net.0.bias": (HIDDEN,),
            "decoder.net.2.weight": (1 + FEATURES, HIDDEN), "decoder.net.2.bias": (1 + FEATURES,),
            "superresolution.block0.conv0.weight": (3, 3, 3, 3),
        }  # fmt: skip
        self.tensors: dict[str, Tensor] = {
            name: nn.Parameter(torch.randn(shape) * (100 if "mapping.fc" in name else 1))
            for name, shape in shapes.items()
        }
        with torch.no_grad():
            self.tensors["decoder.net.2.weight"][0] *= 8
        self.tensors["backbone.mapping.w_avg"] = torch.randn(W)
        for name, tensor in self.backbone.state_dict().items():
            self.tensors[f"backbone.synthesis.{name}"] = nn.Parameter(tensor)
        self.tensors["backbone.synthesis.b8.resample_filter"] = torch.ones(4, 4)

    def pickle(self) -> bytes:
        """As EG3D saves it."""
        root = network(
            self.tensors, "TriPlaneGenerator", "", rendering_kwargs=self.options, z_dim=Z,
            c_dim=25, neural_rendering_resolution=SIDE,
        )  # fmt: skip
        root.state["_modules"]["renderer"] = node(
            "training.volumetric_rendering.renderer", "ImportanceRenderer",
            **nn.Module().__dict__, plane_axes=self.axes,
        )  # fmt: skip
        return dumps({"G_ema": root, "D": None, "augment_pipe": None})

    def layer(self, name: str, x: Tensor, m: float = 1.0) -> Tensor:
        weight = self.tensors[f"{name}.weight"].detach().double()
        bias = self.tensors[f"{name}.bias"].detach().double()
        return x @ weight.T * (m / math.sqrt(weight.shape[1])) + bias * m

    def styles(self, z: Tensor) -> Tensor:
        """w of z [B, Z], conditioned on the frontal camera."""
        focal = 4.2647
        pose = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1]
        c = torch.tensor([*pose, focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1]).float().double()
        c = c * (0 if self.options["c_gen_conditioning_zero"] else self.options["c_scale"])

        def unit(x: Tensor) -> Tensor:
            return x / (x.square().mean(-1, keepdim=True) + 1e-8).sqrt()

        y = unit(self.layer("backbone.mapping.embed", c[None])).expand(len(z), -1)
        x = torch.cat([unit(z.double()), y], dim=1)
        for i in range(2):
            x = F.leaky_relu(self.layer(f"backbone.mapping.fc{i}", x, 0.01), 0.2) * math.sqrt(2)
        return x

    def field(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Colours [P, 3] and raw densities [P] of one scene at points [P, 3] of EG3D's world."""
        coords = points * (2 / self.options["box_warp"])
        total = torch.zeros(len(points), FEATURES, dtype=torch.float64)
        for k in range(3):
            uv = (coords @ torch.linalg.inv(self.axes[k].double()))[:, :2]
            plane = planes[None, k * FEATURES : (k + 1) * FEATURES].double()
            read = F.grid_sample(plane, uv[None, None], padding_mode="zeros", align_corners=False)
            total += read[0, :, 0].T / 3
        hidden = F.softplus(self.layer("decoder.net.0", total))
        out = self.layer("decoder.net.2", hidden)
        return torch.sigmoid(out[:, 1:4]) * 1.002 - 0.001, out[:, 0]

    def picture(self, planes: Tensor, theta: float, phi: float) -> Tensor:
        """[3, SIDE, SIDE] in [-1, 1] from EG3D's camera angles, evenly spread samples only."""
        unit = [math.sin(phi) * math.cos(math.pi - theta), math.cos(phi),
                math.sin(phi) * math.sin(math.pi - theta)]  # fmt: skip
        origin = torch.tensor(unit, dtype=torch.float64) * 2.7
        forward = -origin / origin.norm()
        right = -F.normalize(torch.linalg.cross(torch.tensor([0.0, 1, 0]).double(), forward), dim=0)
        down = torch.linalg.cross(forward, right)
        t = torch.linspace(2.25, 3.3, STEPS, dtype=torch.float64)
        image = torch.zeros(3, SIDE, SIDE, dtype=torch.float64)
        for row in range(SIDE):
            for column in range(SIDE):
                x = ((column + 0.5) / SIDE - 0.5) / 4.2647
                y = ((row + 0.5) / SIDE - 0.5) / 4.2647
                ray = F.normalize(forward + x * right + y * down, dim=0)
                colors, raw = self.field(planes, origin + t[:, None] * ray)
                image[:, row, column] = self.march(colors, raw, t)
        return image

    def march(self, colors: Tensor, raw: Tensor, t: Tensor) -> Tensor:
        """Midpoints, softplus(raw - 1), black or white behind, from [0, 1] to [-1, 1]."""
        light, total = 1.0, torch.zeros(3, dtype=torch.float64)
        for k in range(len(t) - 1):
            sigma = F.softplus((raw[k] + raw[k + 1]) / 2 - 1)
            alpha = 1 - torch.exp(-sigma * (t[k + 1] - t[k]))
            total += light * alpha * (colors[k] + colors[k + 1]) / 2
            light = light * (1 - alpha + 1e-10)
        if self.options.get("white_back"):
            total += light
        return total * 2 - 1


CASES = {
    "legacy": Eg3d(),
    "later planes": Eg3d(LATER),
    "white": Eg3d(white_back=True),
    "wide": Eg3d(box_warp=1.4, c_scale=0.5),
    "no pose": Eg3d(c_gen_conditioning_zero=True),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Eg3d, Path]:
    source = CASES[request.param]
    return source, write(tmp_path / "ffhq.pkl", source.pickle())


def test_an_imported_generator_renders_what_eg3d_does(case: tuple[Eg3d, Path]) -> None:
    source, path = case
    out = path.with_suffix(".safetensors")
    weights = import_model(path, out, overrides=["model.generator.num_fine_steps=0"]).weights
    assert weights.unmapped == ["superresolution.block0.conv0.weight"]
    assert weights.constants == ["backbone.synthesis.b8.resample_filter"]
    assert len(weights.notes) == 2
    generator = load(out).generator
    z = torch.randn(1, Z)
    with torch.no_grad():
        ws = generator.mapping(z)
        assert torch.allclose(ws[:, 0].double(), source.styles(z), rtol=1e-4, atol=1e-4)
        planes = source.backbone(ws, noise_mode=NoiseMode.CONST)
        for theta, phi in ((math.pi / 2, math.pi / 2), (1.1, 1.4)):
            angles = torch.tensor([[math.pi / 2 - theta, phi, 0.0]])
            view = View(deterministic=True)
            ours = generator.synthesis(
                ws, angles, view, noise_mode=NoiseMode.CONST, draws=RandomDraws(0)
            ).image[0]
            expected = source.picture(planes[0], theta, phi)
            assert float(expected.std()) > 0.05
            assert torch.allclose(ours.double(), expected, atol=2e-4)


def test_importance_samples_refine_the_same_picture(tmp_path: Path) -> None:
    source = CASES["legacy"]
    path, out = write(tmp_path / "a.pkl", source.pickle()), tmp_path / "a.safetensors"
    pictures = []
    for steps in (["num_ray_steps=400", "num_fine_steps=0"], ["num_ray_steps=96"]):
        import_model(path, out, overrides=[f"model.generator.{key}" for key in steps])
        generator = load(out).generator
        with torch.no_grad():
            ws = generator.mapping(torch.ones(1, Z))
            image = generator.synthesis(
                ws, torch.tensor([[0.2, 1.5, 0.0]]), View(deterministic=True),
                noise_mode=NoiseMode.CONST, draws=RandomDraws(0),
            ).image  # fmt: skip
        pictures.append(image)
    assert (pictures[0] - pictures[1]).abs().max() < 0.01
    assert "softplus" in generator.renderer()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disparity_space_sampling": True}, "disparity_space_sampling is not supported"),
        ({"clamp_mode": "relu"}, "clamp_mode='relu' is not softplus"),
        ({"box_warp": "x"}, "box_warp is not a number"),
        ({"ray_start": float("nan")}, "ray_start is not a number"),
    ],
)
def test_what_cannot_be_honoured(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.pkl", Eg3d(**options).pickle())
    with pytest.raises(CheckpointError, match=message):
        import_model(path, tmp_path / "a.safetensors")


def test_unknown_axes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pkl", Eg3d([LEGACY[0]] * 3).pickle())
    with pytest.raises(CheckpointError, match="plane_axes is not one of EG3D's"):
        import_model(path, tmp_path / "a.safetensors")


def test_automatic_bounds_hold_the_cube(tmp_path: Path) -> None:
    source = Eg3d(ray_start="auto", ray_end="auto", box_warp=2.0)
    import_model(write(tmp_path / "a.pkl", source.pickle()), out := tmp_path / "a.safetensors")
    camera = load(out).config.dataset.camera
    assert camera.ray_start == pytest.approx(2.7 - math.sqrt(3))
    assert camera.ray_end == pytest.approx(2.7 + math.sqrt(3))
