"""Generator cases: latents to images, with every intermediate tensor on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from epigraf.config import RenderBackend
from epigraf.interop.official import generator_state_from_official
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, Image, View
from epigraf.ops.triplane import sample_triplane
from epigraf.rendering.draws import ReplayDraws
from epigraf.rendering.patches import PatchParams
from tests.parity.case import Case
from tests.parity.report import Report
from tests.parity.stages import check_stages

IMAGE_RTOL = 2e-4  # the README's tolerance
# A last interval of 1e10 and the choice of importance samples amplify rounding by 1e2..1e3. What
# lies behind them is held to the tolerance of intermediates given the recorded tensors before it
# (stages.py), and to this one end to end.
_AMPLIFIED_RTOL = 2e-3
_AMPLIFIED = ("coarse_mlp_out", "coarse_weights", "pdf_weights", "fine_", "final_", "bg_")
_VARIANTS = {
    "img_ignore_bg": {"ignore_bg": True},
    "img_bg_only": {"bg_only": True},
}


def check(case: Case, report: Report) -> None:
    generator = load_generator(case)
    trace: dict[str, Tensor] = {}
    _record_blocks(generator, trace)
    with torch.no_grad():
        ws = _mapping(case, generator, draws := case.draws())
        trace["ws"] = ws
        view = _view(case)
        recorded = draws.remaining
        image = _render(case, generator, ws, view, draws, trace)
        renderings = round(recorded / max(recorded - draws.remaining, 1))
        _compare_trace(case, report, trace)
        check_stages(case, report, generator, view)
        _compare_images(case, report, _Scene(generator, ws, view), image, draws, renderings)
        _compare_backends(case, report, view)
        if "probe/points" in case.tensors:
            _compare_probe(case, report, generator, trace["planes"])


def load_generator(case: Case, prefix: str = "G/") -> Generator:
    """The case's generator in the case's mode."""
    generator = Generator(case.config())
    generator.load_state_dict(generator_state_from_official(case.prefix(prefix)))
    return generator.train(case.info["mode"] == "train")


def _mapping(case: Case, generator: Generator, draws: ReplayDraws) -> Tensor:
    return generator.mapping(
        case.tensors["in/z"],
        case.tensors.get("in/c"),
        case.tensors.get("in/camera_angles_cond"),
        truncation_psi=case.info.get("truncation_psi", 1),
        truncation_cutoff=case.info.get("truncation_cutoff"),
        draws=draws,
    )


def _view(case: Case) -> View:
    patch = None
    if "in/patch_scales" in case.tensors:
        patch = PatchParams(case.tensors["in/patch_scales"], case.tensors["in/patch_offsets"])
    fov = case.tensors.get("in/fov", case.info.get("fov"))
    train = case.info["mode"] == "train"
    return View(
        patch=patch,
        fov=fov,
        deterministic=case.info.get("deterministic", False),
        # The official switches for a deterministic foreground leave the background's jitter on.
        jitter_background=any(".add_noise_to_interval." in n for n in case.info["draws"]),
        density_noise_std=case.info.get("nerf_noise_std", 0.0) if train else 0.0,
    )


def _render(
    case: Case,
    generator: Generator,
    ws: Tensor,
    view: View,
    draws: ReplayDraws,
    trace: dict[str, Tensor] | None = None,
) -> Image:
    mode = NoiseMode(case.info.get("noise_mode", "random"))
    angles = case.tensors["in/camera_angles"]
    return generator.synthesis(ws, angles, view, noise_mode=mode, draws=draws, trace=trace)


def _record_blocks(generator: Generator, trace: dict[str, Tensor]) -> None:
    """Record every block's features and running planes, as their hooks see them, once."""

    def record(name: str):
        def hook(module, inputs, output) -> None:
            for key, value in zip((f"{name}.x", f"{name}.img"), output, strict=True):
                trace.setdefault(key, value)

        return hook

    for resolution in generator.backbone.block_resolutions:
        name = f"b{resolution}"
        generator.backbone.get_submodule(name).register_forward_hook(record(name))


def _compare_trace(case: Case, report: Report, trace: dict[str, Tensor]) -> None:
    for name, expected in case.prefix("mid/").items():
        if name == "ray_index":
            continue
        if name not in trace:
            report.failure(f"mid/{name}", "not computed")
            continue
        ours = _as_recorded(case, trace, name, expected)
        rtol = _AMPLIFIED_RTOL if name.startswith(_AMPLIFIED) else 1e-5
        report.compare(f"mid/{name}", ours, expected, rtol=rtol)


def _as_recorded(case: Case, trace: dict[str, Tensor], name: str, expected: Tensor) -> Tensor:
    """Ours in the shape of the recorded tensor, which may hold only some of the rays."""
    ours = trace[name]
    if ours.shape == expected.shape:
        return ours
    batch, count = trace["ray_d_world"].shape[:2]
    if ours.numel() % (batch * count) == 0:
        per_ray = ours.reshape(batch, count, *_sample_shape(ours, batch, count, expected))
        if "mid/ray_index" in case.tensors:
            per_ray = per_ray[:, case.tensors["mid/ray_index"]]
        if per_ray.numel() == expected.numel():
            return per_ray.reshape(expected.shape)
    return ours.reshape(expected.shape) if ours.numel() == expected.numel() else ours


def _sample_shape(ours: Tensor, batch: int, count: int, expected: Tensor) -> tuple[int, ...]:
    """What a ray holds of a tensor, whatever way its rays and samples were flattened."""
    last = expected.shape[-1]
    per_ray = ours.numel() // (batch * count)
    return (per_ray // last, last) if per_ray % last == 0 else (per_ray,)


@dataclass(frozen=True)
class _Scene:
    """What all pictures of a case show."""

    generator: Generator
    ws: Tensor
    view: View


def _compare_images(
    case: Case, report: Report, scene: _Scene, image: Image, draws: ReplayDraws, renderings: int
) -> None:
    """Compare the pictures; each further one may have its own recorded rendering, in their order
    in the case's list of tensors.
    """
    out = case.prefix("out/")
    listed = [name.removeprefix("out/") for name in case.info.get("tensors", {})]
    names = sorted(out, key=lambda name: listed.index(name) if name in listed else -1)
    depth_has_own = renderings > 1 + sum(name in _VARIANTS for name in names)

    def render(change: dict[str, bool]) -> Image:
        view = replace(scene.view, **change)
        again = draws if draws.remaining else _draws_of_rendering(case, scene.generator)
        return _render(case, scene.generator, scene.ws, view, again)

    for name in names:
        if name == "img":
            ours = image.image
        elif name == "depth":
            ours = render({}).depth if depth_has_own else image.depth
        elif name in _VARIANTS:
            ours = render(_VARIANTS[name]).image
        else:
            continue
        report.compare(f"out/{name}", ours, out[name], rtol=IMAGE_RTOL)
    draws.finish()


def _compare_backends(case: Case, report: Report, view: View) -> None:
    """The picture again through every backend (the traced one came from the ops)."""
    for backend in RenderBackend:
        generator = load_generator(case)
        generator.cfg = generator.cfg.with_overrides([f"render.backend={backend.value}"])
        draws = case.draws()
        ws = _mapping(case, generator, draws)
        image = _render(case, generator, ws, view, draws).image
        report.compare(f"img ({backend.value})", image, case.tensors["out/img"], rtol=IMAGE_RTOL)


def _draws_of_rendering(case: Case, generator: Generator) -> ReplayDraws:
    """The recorded draws again, without those that the mapping network takes."""
    draws = case.draws()
    _mapping(case, generator, draws)
    return draws


def _compare_probe(case: Case, report: Report, generator: Generator, planes: Tensor) -> None:
    """Plane features and (r, g, b, raw density) at given points, some of them outside the cube."""
    points, directions = case.tensors["probe/points"], case.tensors["probe/ray_d"]
    field = generator.field(planes)
    sample = field(points, directions)
    ours = torch.cat([sample.colors, sample.densities[..., None]], dim=-1)
    report.compare("probe/rgb_sigma", ours, case.tensors["probe/rgb_sigma"], rtol=1e-4)
    features = sample_triplane(field.planes, points / field.cube_scale)
    expected = case.tensors["probe/features"].mean(dim=1)
    report.compare("probe/features", features, expected, rtol=1e-5)
