"""Every stage of the ray march by itself: from the recorded inputs of a stage to its outputs.

Errors of earlier stages do not enter, so that each stage is held to the tolerance of one
computation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from epigraf.models.background import SphereBackground, inverse_sphere_points
from epigraf.models.generator import Generator, View
from epigraf.ops import use_reference
from epigraf.ops.importance import importance_t, merge_samples
from epigraf.rendering.options import RenderOptions
from epigraf.rendering.rays import Rays, RaySegment, ray_segment
from epigraf.rendering.renderer import integrate_samples
from tests.parity.case import Case
from tests.parity.report import Report

_MARCH = (
    "planes", "coarse_points", "coarse_z", "coarse_mlp_out", "coarse_weights", "fine_z",
    "fine_mlp_out", "final_rgb_sigma", "final_z", "final_weights", "ray_o_world", "ray_d_world",
)  # fmt: skip
# A weight is 1 - exp(-x) times a product of such numbers: each is known to some ulps of 1, however
# small all of them are.
_WEIGHT_ATOL = 5e-7
# A distribution function known to an ulp or two of 1 (1.2e-7) is divided by the probability of a
# bin, which may be as small as 2e-5: a depth is known to a hundredth of its bin.
_BIN_SHARE = 1e-2
_BACKGROUND = ("bg_points", "bg_mlp_out", "bg_rgb_sigma", "bg_z", "bg_weights")


class _Recorded:
    """A case's intermediate tensors, each per ray: [B, R, ...]."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.tensors = case.prefix("mid/")
        self.batch, self.count = self.tensors["ray_d_world"].shape[:2]

    def __contains__(self, names: tuple[str, ...]) -> bool:
        return all(name in self.tensors for name in names)

    def samples(self, name: str, width: int) -> Tensor:
        """[B, R, S, width]."""
        return self.tensors[name].reshape(self.batch, self.count, -1, width)

    def scalars(self, name: str) -> Tensor:
        """[B, R, S]."""
        return self.samples(name, 1)[..., 0]

    def draw(self, function: str, index: int = 0) -> Tensor | None:
        """The index-th recorded draw of a function as [B, R, S], of the recorded rays."""
        names = [n for n in self.case.info["draws"] if n.split(".")[1] == function]
        if index >= len(names):
            return None
        value = self.case.tensors[names[index]]
        index_of_rays = self.tensors.get("ray_index")
        if index_of_rays is None:
            return value.reshape(self.batch, self.count, -1)
        rays = (self.case.tensors["out/img"].shape[-1]) ** 2
        return value.reshape(self.batch, rays, -1)[:, index_of_rays]


def check_stages(case: Case, report: Report, generator: Generator, view: View) -> None:
    """Compare each stage as ``given/NAME`` where the case holds what the stage needs."""
    if "mid/ray_d_world" not in case.tensors:
        return
    recorded = _Recorded(case)
    options = generator.render_options(view)
    if _MARCH in recorded:
        _check_field(recorded, report, generator)
        _check_importance(recorded, report, options)
        _check_integrals(recorded, report, options)
    if _BACKGROUND in recorded and generator.background is not None:
        _check_background(recorded, report, generator)


def _rays(recorded: _Recorded) -> Rays:
    return Rays(recorded.tensors["ray_o_world"], recorded.tensors["ray_d_world"])


def _segment(recorded: _Recorded, options: RenderOptions) -> RaySegment:
    return ray_segment(_rays(recorded), options.near, options.far, options.object_radius)


def _check_field(recorded: _Recorded, report: Report, generator: Generator) -> None:
    """Look-up and decoder at the recorded points."""
    field, rays = generator.field(recorded.tensors["planes"]), _rays(recorded)
    fine_z = recorded.samples("fine_z", 1)
    fine = rays.origins[:, :, None] + rays.directions[:, :, None] * fine_z
    for name, points in (("coarse", recorded.samples("coarse_points", 3)), ("fine", fine)):
        sample = field(points.flatten(1, 2), rays.directions)
        ours = torch.cat([sample.colors, sample.densities[..., None]], dim=-1)
        expected = recorded.samples(f"{name}_mlp_out", 4).flatten(1, 2)
        report.compare(f"given/{name}_mlp_out", ours, expected)


def _check_importance(recorded: _Recorded, report: Report, options: RenderOptions) -> None:
    z, fine_z = recorded.scalars("coarse_z"), recorded.scalars("fine_z")
    u = recorded.draw("sample_pdf")
    if u is None:
        u = torch.linspace(0, 1, fine_z.shape[-1]).expand_as(fine_z)
    weights = recorded.scalars("coarse_weights")
    with use_reference():  # which rounds as the official formulation does
        report.compare("given/fine_z", importance_t(z, weights, u), fine_z)
    bin_width = float((z[..., 1:] - z[..., :-1]).max())
    native = importance_t(z, weights, u)
    report.compare("given/fine_z (native)", native, fine_z, atol=_BIN_SHARE * bin_width)
    fine, coarse = recorded.samples("fine_mlp_out", 4), recorded.samples("coarse_mlp_out", 4)
    colors, raw, t = merge_samples(
        (fine[..., :3], fine[..., 3], fine_z), (coarse[..., :3], coarse[..., 3], z)
    )
    merged = torch.cat([colors, raw[..., None]], dim=-1)
    report.compare("given/final_rgb_sigma", merged, recorded.samples("final_rgb_sigma", 4))
    report.compare("given/final_z", t, recorded.scalars("final_z"))


def _check_integrals(recorded: _Recorded, report: Report, options: RenderOptions) -> None:
    segment = _segment(recorded, options)
    coarse = recorded.samples("coarse_mlp_out", 4)
    result = integrate_samples(
        coarse[..., :3], coarse[..., 3], recorded.scalars("coarse_z"), segment, options,
        recorded.draw("fancy_integration"),
    )  # fmt: skip
    expected = recorded.scalars("coarse_weights")
    report.compare("given/coarse_weights", result.weights, expected, atol=_WEIGHT_ATOL)
    final = recorded.samples("final_rgb_sigma", 4)
    result = integrate_samples(
        final[..., :3], final[..., 3], recorded.scalars("final_z"), segment, options,
        recorded.draw("fancy_integration", 1), last_back=options.last_back,
    )  # fmt: skip
    expected = recorded.scalars("final_weights")
    report.compare("given/final_weights", result.weights, expected, atol=_WEIGHT_ATOL)
    optional = {
        "final_depth": result.depth[..., None],
        "final_final_transmittance": result.transmittance,
    }
    white = (1 - result.opacity)[..., None] if options.white_back else 0.0
    optional["final_rendered_feats"] = result.features + white
    for name, ours in optional.items():
        if name in recorded.tensors:
            largest = float(final[..., :3].abs().max()) if name.endswith("feats") else 1.0
            atol = _WEIGHT_ATOL * largest
            report.compare(f"given/{name}", ours, recorded.tensors[name], atol=atol)


def _check_background(recorded: _Recorded, report: Report, generator: Generator) -> None:
    background = generator.background
    assert isinstance(background, SphereBackground)
    radii = recorded.samples("bg_z", 1)[..., 0].neg()
    expected = recorded.samples("bg_points", 4)
    report.compare("given/bg_points", inverse_sphere_points(_rays(recorded), radii), expected)
    ws = recorded.tensors["ws"][:, generator.backbone.num_ws :]
    output = recorded.samples("bg_mlp_out", 4).flatten(1, 2)
    report.compare("given/bg_mlp_out", background.field(expected.flatten(1, 2), ws), output)
    features, result = background.integrate(recorded.samples("bg_rgb_sigma", 4), radii)
    weights = recorded.scalars("bg_weights")
    report.compare("given/bg_weights", result.weights, weights, atol=_WEIGHT_ATOL)
    if "bg_rendered_feats" in recorded.tensors:
        name, feats = "given/bg_rendered_feats", recorded.tensors["bg_rendered_feats"]
        atol = _WEIGHT_ATOL * float(output[..., :3].abs().max())
        report.compare(name, features, feats, atol=atol)
