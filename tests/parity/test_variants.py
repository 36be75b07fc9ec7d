"""The parity runner on cases of the fixtures' format that the fixtures do not contain.

Expected values come from `oracle` (float64, from the formulas), not from the package.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from epigraf.interop.official import config_from_official, generator_name_to_official
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator
from epigraf.ops import use_reference
from tests.parity import oracle
from tests.parity.__main__ import check_case
from tests.parity.case import load_case
from tests.parity.report import Report

BASE = Path(__file__).parents[1] / "golden" / "b_gen_patch.json"
BATCH, SIDE, STEPS, Z = 3, 8, 6, 5
SPHERE = {"bg_model": {"type": "sphere", "num_steps": 4, "cmax": 16}}
PLANE = {"bg_model": {"type": "plane"}}
Part = tuple[Tensor, Tensor, int]  # scales and offsets of patches [B, 2], their side
VIEW = {"tri_plane": {"has_view_cond": True, "posenc_period_len": 6, "mlp": {"n_layers": 3}}}
GPC = {"camera_cond": True, "camera_cond_noise_std": 0.3, "camera_cond_drop_p": 0.4}
WHITE = {"white_back": True}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # name: (generator section, dataset section, the rest)
    "sphere_train": (SPHERE, {}, {"mode": "train"}),
    "sphere_redrawn": (SPHERE, {}, {"mode": "train", "redraw": True}),
    "sphere_eval_thin": ({**SPHERE, "clamp_mode": "relu"}, WHITE, {"thin": True}),
    "plane_patch": (PLANE, {}, {"mode": "train", "patch": True}),
    "plane_full": ({**PLANE, "density_shift": -1.0}, WHITE, {}),
    "view_posenc": ({**VIEW, "density_shift": 0.5}, {"last_back": True}, {"poles": True}),
    "relu_white_last": ({"clamp_mode": "relu"}, {**WHITE, "last_back": True}, {"fov": "batch"}),
    "gpc_labels_train": (GPC, {}, {"mode": "train", "labels": 3, "noise_std": 0.7}),
    "gpc_mean_pose": (GPC, {}, {"no_cond": True, "fov": "scalar", "psi": 0.6, "cutoff": 2}),
}


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    out = copy.deepcopy(base)
    for key, value in change.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if nested else value
    return out


def config_tree(generator: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    small = {
        "cmax": 8, "w_dim": 8, "num_ray_steps": STEPS, "bg_model": {"cmax": 16},
        "tri_plane": {"res": 16, "feat_dim": 4, "mlp": {"hid_dim": 8}},
    }  # fmt: skip
    patch = {"resolution": SIDE, "min_scale_trg": 0.5}
    tree = json.loads(BASE.read_text(encoding="utf-8"))["config"]
    tree = merged(tree, {"dataset": {"resolution": 16, **dataset}, "training": {"patch": patch}})
    tree["model"]["generator"] = merged(merged(tree["model"]["generator"], small), generator)
    tree["model"]["discriminator"]["num_additional_start_blocks"] = 1
    return tree


class Scene:
    """One case: its inputs, and its expected tensors as they are made."""

    def __init__(self, name: str) -> None:
        changes, dataset, self.options = CASES[name]
        self.tree = config_tree(changes, dataset)
        self.g, self.data = self.tree["model"]["generator"], self.tree["dataset"]
        self.train = self.options.get("mode") == "train"
        self.draw = oracle.Recorder(len(name))
        self.tensors: dict[str, Tensor] = {}
        torch.manual_seed(len(name))
        self.labels = self.options.get("labels", 0)
        self.model = self._model()
        state = self.model.state_dict()
        named = {generator_name_to_official(k): v for k, v in state.items()}
        self.tensors |= {f"G/{k}": v.clone() for k, v in named.items()}
        self.w = {k: v.double() for k, v in named.items()}
        self._inputs()

    def _model(self) -> Generator:
        model = Generator(config_from_official(self.tree, z_dim=Z, c_dim=self.labels)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            model.mapping.w_avg.normal_()
            density = model.decoder.layers[-1]
            density.get_parameter("weight")[-1] *= 20
            if model.mapping.mean_camera_pose is not None:
                model.mapping.mean_camera_pose.copy_(torch.tensor([0.2, 1.4, 0.0]))
        return model

    def _inputs(self) -> None:
        angles = torch.tensor([[0.3, 1.2, 0.0], [-2.0, 1.9, 0.1], [7.0, 1.5, 0.0]])
        if self.options.get("poles"):
            angles[0, 1], angles[1, 1] = 0.0, math.pi
        self.put("in/z", torch.randn(BATCH, Z))
        self.put("in/c", torch.eye(BATCH)[:, : self.labels].contiguous())
        self.put("in/camera_angles", angles)
        if self.g["camera_cond"] and not self.options.get("no_cond"):
            self.put("in/camera_angles_cond", angles.roll(1, 0) + 0.05)
        if self.options.get("patch"):
            self.put("in/patch_scales", torch.tensor([[0.5, 0.5], [0.7, 0.6], [1.0, 1.0]]))
            self.put("in/patch_offsets", torch.tensor([[0.5, 0.1], [0.3, 0.4], [0.0, 0.0]]))
        if self.options.get("fov") == "batch":
            self.put("in/fov", torch.tensor([10.0, 12.0, 14.0]))
        elif self.options.get("fov") == "scalar":
            self.put("in/fov", torch.tensor(11.0))

    def put(self, name: str, value: Tensor) -> None:
        self.tensors[name] = value.float().contiguous()

    def given(self, name: str) -> Tensor:
        return self.tensors[name].double()

    def styles(self) -> Tensor:
        """ws [B, L, W] in float64."""
        conditions = [self.given("in/c")]
        if self.g["camera_cond"]:
            turned = self.tensors.get("in/camera_angles_cond")
            if turned is None:
                turned = self.w["mapping.mean_camera_pose"].expand(BATCH, 3)
            conditions.append(self._camera(turned.double()))
        joined = torch.cat(conditions, dim=1)
        condition = joined if joined.shape[1] else None
        w = oracle.mapping(self.w, self.given("in/z"), condition, self.g["map_depth"])
        ws = w[:, None].repeat(1, self.model.num_ws, 1)
        end = self.options.get("cutoff", self.model.num_ws)
        mean = self.w["mapping.w_avg"]
        ws[:, :end] = mean + self.options.get("psi", 1.0) * (ws[:, :end] - mean)
        return ws

    def _camera(self, angles: Tensor) -> Tensor:
        pair = angles[:, :2]
        if self.train:
            noise = self.draw("forward.randn_like", (BATCH, 2))
            spread = (pair - pair.mean(0)).square().sum(0).div(BATCH - 1).sqrt()
            pair = pair + self.g["camera_cond_noise_std"] * noise * spread
        turns, drop = oracle.camera_turns(pair), self.g["camera_cond_drop_p"]
        if self.train:
            mask = (torch.rand(BATCH, 2, generator=self.draw.generator) > drop).float()
            turns = turns * self.draw.keep("forward.dropout_keepmask", mask) / (1 - drop)
        return turns

    def render(self, ws: Tensor) -> None:
        """Everything from planes to pictures."""
        # by the reference, so that the case does not move with the core's rounding
        with torch.no_grad(), use_reference():
            planes = self.model.planes(ws.float(), NoiseMode.CONST).double()
        self.put("mid/ws", ws)
        self.put("mid/planes", planes)
        side = SIDE if self.train else self.data["resolution"]
        scales = self.tensors.get("in/patch_scales", torch.ones(BATCH, 2)).double()
        offsets = self.tensors.get("in/patch_offsets", torch.zeros(BATCH, 2)).double()
        camera = self.data["camera"]
        fov = self.tensors.get("in/fov", torch.tensor(camera["fov"])).double().expand(BATCH)
        origins, rays, in_camera, c2w = oracle.camera_rays(
            self.given("in/camera_angles"), fov, scales, offsets, side, camera["radius"]
        )
        self.put("mid/c2w", c2w)
        self.per_ray = {"rays_d_cam": in_camera, "ray_o_world": origins, "ray_d_world": rays}
        scene = (ws, planes, origins, rays, (scales, offsets, side))
        pictures = self._pictures(*scene)
        self._store()
        if self.options.get("redraw"):  # every picture has numbers of its own, in this order
            for name in ("img_bg_only", "depth", "img_ignore_bg"):
                pictures.pop(name)
                pictures[name] = self._pictures(*scene, bg=name != "img_ignore_bg")[name]
        for name, value in pictures.items():
            self.put(f"out/{name}", value.mT.reshape(BATCH, -1, side, side))

    def _pictures(
        self, ws: Tensor, planes: Tensor, origins: Tensor, rays: Tensor, part: Part, bg: bool = True
    ) -> dict[str, Tensor]:
        """All pictures [B, N, C] of one rendering."""
        final = self._march(planes, origins, rays)
        picture = final["feats"]
        if self.data["white_back"]:
            picture = picture + (1 - final["opacity"])[..., None]
        self.per_ray["final_rendered_feats"] = picture
        pictures = {"img": picture, "depth": final["depth"][..., None]}
        if self.g["bg_model"]["type"] is not None:
            pictures["img_ignore_bg"] = picture
            if bg:
                behind = self._behind(ws, planes, origins, rays, part)
                through = final["transmittance"][..., None]
                pictures |= {"img": picture + behind * through, "img_bg_only": behind}
        return pictures

    def _march(self, planes: Tensor, origins: Tensor, rays: Tensor) -> dict[str, Tensor]:
        camera, clamp, shape = self.data["camera"], self.g["clamp_mode"], rays.shape[:2]
        even = torch.linspace(camera["ray_start"], camera["ray_end"], STEPS).double()
        u = self.draw("perturb_points.rand_like", (*shape, STEPS, 1))[..., 0]
        z = oracle.jittered(even, u)
        last = 1e10 if self.g["bg_model"]["type"] is None else 1e-3
        coarse = self._evaluate(planes, origins, rays, z)
        weights = oracle.integrate(self._noisy(coarse), z, last, clamp)["weights"]
        u = self.draw("sample_pdf.rand", (shape[0] * shape[1], STEPS))
        fine_z = oracle.importance(z.flatten(0, 1), weights.flatten(0, 1), u).view(z.shape)
        fine = self._evaluate(planes, origins, rays, fine_z)
        all_z, order = torch.cat([fine_z, z], dim=-1).sort(dim=-1)
        merged = torch.cat([fine, coarse], dim=2).gather(2, order[..., None].expand(-1, -1, -1, 4))
        noisy, back = self._noisy(merged), self.data["last_back"]
        final = oracle.integrate(noisy, all_z, last, clamp, back)
        points = origins[:, :, None] + rays[:, :, None] * z[..., None]
        self.per_ray |= {
            "coarse_points": points, "coarse_z": z[..., None], "coarse_mlp_out": coarse,
            "coarse_weights": weights[..., None], "pdf_bins": (z[..., 1:] + z[..., :-1]) / 2,
            "pdf_weights": weights[..., 1:-1] + 1e-5, "fine_z": fine_z, "fine_mlp_out": fine,
            "final_rgb_sigma": merged, "final_z": all_z[..., None],
            "final_weights": final["weights"][..., None], "final_depth": final["depth"][..., None],
            "final_final_transmittance": final["transmittance"],
        }  # fmt: skip
        return final

    def _noisy(self, rgb_sigma: Tensor) -> Tensor:
        """What the integrator adds to raw densities before it clamps them."""
        std = self.options.get("noise_std", 0.0)
        added = torch.full_like(rgb_sigma[..., 3:], self.g["density_shift"])
        if std > 0:
            shape = tuple(added.shape)
            added = added + std * self.draw("fancy_integration.randn_like", shape)
        return torch.cat([rgb_sigma[..., :3], rgb_sigma[..., 3:] + added], dim=-1)

    def _evaluate(self, planes: Tensor, origins: Tensor, rays: Tensor, z: Tensor) -> Tensor:
        points = origins[:, :, None] + rays[:, :, None] * z[..., None]
        views = rays[:, :, None].expand_as(points).flatten(1, 2)
        scaled = points.flatten(1, 2) / self.data["cube_scale"]
        found = oracle.field(self.w, self.g["tri_plane"], planes, scaled, views)
        return found.view(*z.shape, 4)

    def _behind(
        self, ws: Tensor, planes: Tensor, origins: Tensor, rays: Tensor, part: Part
    ) -> Tensor:
        """Background colours [B, N, 3]."""
        background = self.g["bg_model"]
        if background["type"] == "plane":
            return self._picture(planes[:, -3:], *part)
        count = background["num_steps"]
        s = torch.linspace(background["start"], 0, count).double().expand(*rays.shape[:2], count)
        if self.train:
            u = self.draw("add_noise_to_interval.rand_like", tuple(s.shape))
            s = oracle.jittered(s[0, 0], u)
        points = oracle.outside_points(origins, rays, s)
        own = ws[:, -2 * background["num_blocks"] :]
        raw = oracle.background_field(self.w, background, points.flatten(1, 2), own)
        raw = raw.view(*s.shape, 4)
        result = oracle.integrate(raw, -s, 1e10, self.g["clamp_mode"])
        white = (1 - result["opacity"])[..., None] if self.data["white_back"] else 0.0
        feats = result["feats"] + white
        self.per_ray |= {
            "bg_points": points, "bg_z_raw": s, "bg_mlp_out": raw, "bg_rgb_sigma": raw,
            "bg_z": -s[..., None], "bg_weights": result["weights"][..., None],
            "bg_rendered_feats": feats,
        }  # fmt: skip
        return feats

    def _picture(self, picture: Tensor, scales: Tensor, offsets: Tensor, side: int) -> Tensor:
        """Resized to the data set's resolution, then cut: two bilinear readings."""
        line = torch.linspace(-1, 1, self.data["resolution"], dtype=torch.float64)
        v, u = torch.meshgrid(line, line, indexing="ij")
        cut, colours = torch.linspace(-1, 1, side, dtype=torch.float64), []
        for b in range(BATCH):
            large = oracle.bilinear(picture[b], u.flatten(), v.flatten()).T
            large = large.view(3, len(line), len(line))
            x = (cut + 1) * scales[b, 0] - 1 + 2 * offsets[b, 0]
            y = -((-cut + 1) * scales[b, 1] - 1 + 2 * offsets[b, 1])
            down, across = torch.meshgrid(y, x, indexing="ij")
            colours.append(oracle.bilinear(large, across.flatten(), down.flatten()))
        return torch.stack(colours)

    def _store(self) -> None:
        """Per-ray tensors in the two layouts of the format: thinned, or as the code has them."""
        index = torch.tensor([0, 5, 17, 40])
        flat = {"coarse_mlp_out", "fine_mlp_out", "bg_points", "bg_mlp_out"}
        for name, value in self.per_ray.items():
            if self.options.get("thin"):
                value = value[:, index]
            elif name in flat:
                value = value.flatten(1, 2)
            elif name in ("fine_z", "pdf_bins", "pdf_weights"):
                value = value.flatten(0, 1)
            self.put(f"mid/{name}", value)
        if self.options.get("thin"):
            self.tensors["mid/ray_index"] = index

    def save(self, folder: Path, name: str) -> Path:
        self.tensors |= self.draw.tensors
        info = {
            "kind": "generator", "mode": self.options.get("mode", "eval"), "config": self.tree,
            "deterministic": False, "noise_mode": "const", "z_dim": Z,
            "truncation_psi": self.options.get("psi", 1),
            "truncation_cutoff": self.options.get("cutoff"),
            "nerf_noise_std": self.options.get("noise_std", 0.0),
            "draws": list(self.draw.tensors), "tensors": dict.fromkeys(self.tensors),
        }  # fmt: skip
        path = folder / f"{name}.json"
        path.write_text(json.dumps(info), encoding="utf-8")
        save_file(self.tensors, path.with_suffix(".safetensors"))
        return path


@pytest.mark.parametrize("name", CASES)
def test_generator(name: str, tmp_path: Path) -> None:
    scene = Scene(name)
    scene.render(scene.styles())
    lines: list[str] = []
    report = Report(write=lines.append)
    check_case(load_case(scene.save(tmp_path, name)), report)
    assert report.failed == 0, "\n".join(lines)
    assert report.passed > 15
