"""What sentinels ask the averaged generator: are its objects flat, alike, or made by the camera?

The same few objects at every probe, small pictures, no random number that training would miss.
Legend: N objects, h w pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from epigraf.config import CameraDist, Config
from epigraf.data.images import ImageDataset
from epigraf.models.backbone import NoiseMode
from epigraf.models.generator import Generator, Image, View
from epigraf.rendering.camera import sample_camera_angles
from epigraf.rendering.draws import RandomDraws

PROBE_SEED = 20_221
OBJECTS, LEAK_OBJECTS, SIDE, CAMERAS = 8, 4, 32, 256
DEPTH_BINS = 64
MIN_SOLID = 16  # rays that must hit an object, for its depth to say anything


@dataclass(frozen=True)
class Probe:
    """The questions of a run.

    Attributes:
        z, labels: [N, Z], [N, K] of the objects.
        angles: [N, 3] cameras (radians) of the real images that they are compared with.
        front: [3] the middle camera.
        sides: [2, 3] the outer ones, to condition on; None without generator conditioning.
        real_distance: mean distance between those real images.
        near, far: the distances that cameras see.
        side: of the pictures, in pixels.
    """

    z: Tensor
    labels: Tensor
    angles: Tensor
    front: Tensor
    sides: Tensor | None
    real_distance: float
    near: float
    far: float
    side: int


def plan_probe(cfg: Config, dataset: ImageDataset, device: torch.device) -> Probe:
    """The probe of a run: the same for the same configuration and data."""
    draws = RandomDraws(PROBE_SEED)
    side = min(SIDE, cfg.dataset.resolution)
    items = draws.permutation("item", len(dataset))[:OBJECTS].tolist()
    z = draws.normal("z", (len(items), cfg.model.generator.z_dim), torch.empty(0))
    reals = dataset.batch(items)
    camera = cfg.dataset.camera
    if camera.dist is CameraDist.CUSTOM:
        others = draws.integers("camera", len(dataset), (CAMERAS,)).tolist()
        angles, cameras = reals.angles, torch.stack([dataset.angles(i) for i in others])
    else:
        cameras = sample_camera_angles(camera, CAMERAS, draws=draws)
        angles = cameras[: len(items)]
    front = cameras.median(dim=0).values
    sides = None
    if cfg.model.generator.camera_cond:
        sides = front.repeat(2, 1)
        sides[:, 0] = torch.quantile(cameras[:, 0], torch.tensor([0.1, 0.9]))
    return Probe(
        z=z.to(device),
        labels=reals.labels.to(device),
        angles=angles.to(device),
        front=front.to(device),
        sides=None if sides is None else sides.to(device),
        real_distance=mean_distance(F.adaptive_avg_pool2d(reals.images, side)),
        near=camera.ray_start,
        far=camera.ray_end,
        side=side,
    )


@torch.no_grad()
def ask(generator: Generator, probe: Probe) -> dict[str, float]:
    """flatness, collapse and (with generator conditioning) pose_leak of a generator in eval mode.

    flatness is left out where there is nothing solid to see, collapse where the real images are
    all alike.
    """
    ws = generator.mapping(probe.z, probe.labels)
    front = probe.front.expand_as(probe.angles)
    both = torch.stack([probe.angles, front], dim=1).flatten(0, 1)
    seen = _render(generator, ws, both, probe.side)
    found: dict[str, float] = {}
    flatness = non_flatness(seen.depth[1::2], seen.opacity[1::2], probe.near, probe.far)
    if flatness is not None:
        found["flatness"] = flatness
    if probe.real_distance > 0:
        found["collapse"] = mean_distance(seen.image[0::2]) / probe.real_distance
    if probe.sides is not None and len(probe.z) > 1:
        found["pose_leak"] = _pose_leak(generator, probe, probe.sides)
    return found


def _render(generator: Generator, ws: Tensor, angles: Tensor, side: int) -> Image:
    """Angles [N V, 3] of V cameras an object."""
    view = View(resolution=side, deterministic=True)
    draws = RandomDraws(PROBE_SEED, ws.device)
    return generator.synthesis(ws, angles, view, noise_mode=NoiseMode.CONST, draws=draws)


def non_flatness(depth: Tensor, opacity: Tensor, near: float, far: float) -> float | None:
    """How many of 64 depths between near and far an object occupies, on average.

    The exponential of the entropy of the histogram of a depth map: 1 for a wall that faces the
    camera, 64 for a cloud. 3DGP's Non-Flatness Score (Skorokhodov et al. 2023,
    arXiv:2303.01416), here of the rays that something stops (opacity above one half).

    Args:
        depth: [N, 1, h, w], sums of weight times distance.
        opacity: [N, 1, h, w].
        near, far: distances.
    Returns:
        1 to 64; None where no object stops at least 16 rays.
    """
    scores = []
    for distances, solid in zip(depth.flatten(1), opacity.flatten(1), strict=True):
        hit = solid > 0.5
        if int(hit.sum()) < min(MIN_SOLID, len(hit)):
            continue
        place = ((distances[hit] / solid[hit] - near) / (far - near)).clamp(0, 1)
        counts = torch.histc(place.float(), DEPTH_BINS, 0.0, 1.0)
        share = counts / counts.sum()
        scores.append(math.exp(float(torch.special.entr(share).sum())))
    return sum(scores) / len(scores) if scores else None


def mean_distance(images: Tensor) -> float:
    """Mean root-mean-square difference of all pairs of images [N, C, h, w]; 0 without pairs."""
    if len(images) < 2:
        return 0.0
    flat = images.flatten(1).float()
    return float(torch.pdist(flat).mean()) / math.sqrt(flat.shape[1])


def _pose_leak(generator: Generator, probe: Probe, sides: Tensor) -> float:
    """How far objects move when only the camera that they are conditioned on does, relative to the
    distance between objects: 0 where identity is the latent's alone, 1 where the camera says as
    much as the latent (pose-conditioned generators: Chan et al. 2022, EG3D, section 4.4)."""
    count = min(LEAK_OBJECTS, len(probe.z))
    pictures = []
    for pose in sides:
        cond = pose.expand(count, 3)
        ws = generator.mapping(probe.z[:count], probe.labels[:count], cond)
        front = probe.front.expand(count, 3)
        pictures.append(_render(generator, ws, front, probe.side).image)
    moved = (pictures[0] - pictures[1]).flatten(1).square().mean(dim=1).sqrt().mean()
    apart = sum(map(mean_distance, pictures)) / 2
    return float(moved) / max(apart, 1e-6)
