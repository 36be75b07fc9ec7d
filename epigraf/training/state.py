"""Everything that a run is made of, and how it is saved and brought back bit for bit."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epigraf.config import AugmentMode, CameraDist, Config
from epigraf.data.fingerprint import Fingerprint
from epigraf.data.images import ImageDataset, InfiniteSampler
from epigraf.errors import CheckpointError, ConfigError
from epigraf.models.backbone import TriPlaneBackbone
from epigraf.models.discriminator import Discriminator
from epigraf.models.generator import Generator
from epigraf.models.loading import Snapshot, load_weights, write_snapshot
from epigraf.rendering.camera import minimal_cube_scale
from epigraf.rendering.draws import Draws, RandomDraws
from epigraf.training.augment import AugmentPipe
from epigraf.training.distributed import gather, is_main, rank, world_size
from epigraf.training.resume import changes_on_resume, data_changes
from epigraf.training.schedules import lazy_optimiser


@dataclass
class Counters:
    """Numbers that move while training. `tick_start` is in images, `seconds` is wall time.

    `strikes` counts how often in a row each sentinel was beyond its threshold; `rollbacks` and
    `lr_scale` (of both learning rates) say what sentinels did to the run.
    """

    step: int = 0
    images_seen: int = 0
    tick: int = 0
    tick_start: int = 0
    seconds: float = 0.0
    augment_p: float = 0.0
    sign_sum: float = 0.0
    sign_count: int = 0
    strikes: dict[str, int] = field(default_factory=dict)
    rollbacks: int = 0
    lr_scale: float = 1.0


@dataclass
class State:
    """A run between two steps."""

    cfg: Config
    generator: Generator
    discriminator: Discriminator
    ema: Generator
    optimiser_g: torch.optim.Adam
    optimiser_d: torch.optim.Adam
    augment: AugmentPipe | None
    draws: Draws
    sampler: InfiniteSampler
    path_length_mean: Tensor  # scalar
    data: Fingerprint | None = None  # of the training set
    counters: Counters = field(default_factory=Counters)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.path_length_mean.device


def resolve_config(cfg: Config, dataset: ImageDataset) -> Config:
    """The configuration with what the data set decides: its path-independent name and label width.

    Raises:
        ConfigError: the data set cannot serve this configuration; says which key to change.
    """
    camera = cfg.dataset.camera.dist
    if camera is CameraDist.CUSTOM and not dataset.has_angles:
        raise ConfigError(
            f"config: dataset.camera.dist=custom takes cameras from the data, but {dataset.name} "
            f"has no camera_angles in its dataset.json; choose a prior, e.g. "
            f"dataset.camera.dist=truncated_gaussian, or (faces aligned by their eyes) estimate "
            f"them with `epigraf data poses`"
        )
    if cfg.model.discriminator.camera_cond and not dataset.has_angles:
        raise ConfigError(
            f"config: model.discriminator.camera_cond needs the cameras of real images, but "
            f"{dataset.name} has no camera_angles in its dataset.json; set it to false"
        )
    if cfg.model.generator.tri_plane.fixed:
        raise ConfigError(
            "config: model.generator.tri_plane.fixed is for `epigraf fit`; a GAN needs a network "
            "that makes its planes"
        )
    _check_frustum(cfg)
    _check_size(cfg)
    width = dataset.label_dim
    if cfg.training.use_labels and cfg.dataset.c_dim not in (0, width):
        raise ConfigError(
            f"config: dataset.c_dim is {cfg.dataset.c_dim}, but the labels of {dataset.name} have "
            f"width {width}; set dataset.c_dim={width} or 0"
        )
    values = cfg.to_dict()
    values["dataset"]["name"] = dataset.name
    values["dataset"]["c_dim"] = width if cfg.training.use_labels else cfg.dataset.c_dim
    return Config.from_dict(values)


def _check_frustum(cfg: Config) -> None:
    """Samples outside of the cube of the planes would all read zeros."""
    camera, scale = cfg.dataset.camera, cfg.dataset.cube_scale
    radius = cfg.dataset.object_radius
    needed = minimal_cube_scale(camera.fov, camera.ray_start, camera.ray_end, camera.radius)
    needed += math.hypot(*camera.target)
    needed = needed if radius is None else min(radius, needed)
    if needed > scale * (1 + 1e-6):
        raise ConfigError(
            f"config: dataset.cube_scale={scale:g} does not hold all samples of the cameras; "
            f"set it to at least {needed:.3f}"
        )


def _check_size(cfg: Config) -> None:
    """The discriminator has at least one block before the 4x4 features of its end."""
    if cfg.train_resolution * 2**cfg.num_start_blocks < 8:
        raise ConfigError(
            f"config: dataset.resolution={cfg.dataset.resolution} is too small for the "
            f"discriminator; use 8 or more"
        )


def build_state(
    cfg: Config, num_items: int, mean_camera: Tensor, device: torch.device | str = "cpu"
) -> State:
    """A run at its beginning, made from `training.seed`.

    All processes build the same networks; each has random numbers of its own (seed * N + r for
    process r of N), and all walk the same order of images.

    Args:
        cfg: a resolved configuration.
        num_items: size of the data set (mirrored items included).
        mean_camera: [3] mean (yaw, pitch, roll), the camera condition when none is given.
        device: where the networks go.
    """
    seed = cfg.training.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, discriminator = Generator(cfg), Discriminator(cfg)
    if generator.mapping.mean_camera_pose is not None:
        generator.mapping.mean_camera_pose.copy_(mean_camera)
    generator.to(device).train()
    discriminator.to(device).train()
    ema = copy.deepcopy(generator).eval().requires_grad_(False)
    if cfg.training.compile and isinstance(generator.backbone, TriPlaneBackbone):
        generator.backbone.compile_synthesis()
    loss, mode = cfg.model.loss_kwargs, cfg.training.augment.mode
    pl_interval = loss.pl_interval if loss.pl_weight > 0 else None
    augment = None if mode is AugmentMode.NOAUG else AugmentPipe(cfg.training.augment.probs)
    return State(
        cfg=cfg,
        generator=generator,
        discriminator=discriminator,
        ema=ema,
        optimiser_g=_adam(generator, cfg.model.generator.optim, pl_interval),
        optimiser_d=_adam(discriminator, cfg.model.discriminator.optim, cfg.lazy_r1_interval),
        augment=augment.to(device) if augment is not None else None,
        draws=RandomDraws(seed * world_size() + rank(), device),
        sampler=InfiniteSampler(num_items, seed),
        path_length_mean=torch.zeros((), device=device),
        counters=Counters(augment_p=cfg.training.augment.p if mode is AugmentMode.FIXED else 0.0),
    )


def _adam(network: torch.nn.Module, optim: Any, interval: int | None) -> torch.optim.Adam:
    lr, betas = lazy_optimiser(optim, interval)
    adam = torch.optim.Adam(network.parameters(), lr=lr, betas=betas, eps=1e-8, fused=True)
    for group in adam.param_groups:
        group["initial_lr"] = lr
    return adam


def scale_learning_rates(state: State) -> None:
    """Both learning rates as the configuration has them, times `counters.lr_scale`."""
    for optimiser in (state.optimiser_g, state.optimiser_d):
        for group in optimiser.param_groups:
            group["lr"] = group["initial_lr"] * state.counters.lr_scale


def _optimiser_tensors(optimiser: torch.optim.Adam, network: torch.nn.Module) -> dict[str, Tensor]:
    """Adam's moments by parameter name; parameters that were never stepped have none."""
    found = {}
    for name, parameter in network.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            found[f"{name}/{key}"] = value
    return found


def _load_optimiser(
    optimiser: torch.optim.Adam, network: torch.nn.Module, tensors: dict[str, Tensor]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for index, (name, _) in enumerate(network.named_parameters()):
        keys = ("step", "exp_avg", "exp_avg_sq")
        moments = {key: tensors[f"{name}/{key}"] for key in keys if f"{name}/{key}" in tensors}
        if moments:
            state[index] = moments
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def state_tensors(state: State) -> dict[str, dict[str, Tensor]]:
    """Every tensor of a run, by group and name; in several processes all hold the same."""
    return {
        "G": state.generator.state_dict(),
        "D": state.discriminator.state_dict(),
        "G_ema": state.ema.state_dict(),
        "optim_G": _optimiser_tensors(state.optimiser_g, state.generator),
        "optim_D": _optimiser_tensors(state.optimiser_d, state.discriminator),
        "loss": {"path_length_mean": state.path_length_mean},
    }


def save_state(state: State, path: Path, extra: dict[str, Any] | None = None) -> None:
    """Write a snapshot from which `load_state` continues bit-identically (on a CPU).

    All processes call it, the main one writes.

    Args:
        state: the run, between two steps.
        path: see `write_snapshot`.
        extra: more JSON-ready values for the header (the best metric so far).
    """
    if not isinstance(state.draws, RandomDraws):
        raise TypeError("save_state: replayed random numbers have no state to save")
    draws, *others = gather(state.draws.get_state())
    if not is_main():
        return
    header = {
        "config": state.cfg.to_dict(),
        "counters": asdict(state.counters),
        "draws": draws,
        "draws_of_others": others,  # of the processes 1, 2, ...
        "draws_device": state.device.type,
        "sampler": dict(state.sampler.state_dict()),
        "data": asdict(state.data) if state.data is not None else None,
        **(extra or {}),
    }
    write_snapshot(path, header, state_tensors(state))


def load_state(state: State, snapshot: Snapshot, allow_data_change: bool = False) -> list[str]:
    """Bring a freshly built `state` to where `snapshot` was taken.

    Args:
        allow_data_change: go on although the data set is another one.
    Returns:
        One line for each thing that is not as it was: keys, data, random numbers.
    Raises:
        CheckpointError: the snapshot is damaged or belongs to another model or data set.
    """
    lines = changes_on_resume(state.cfg, snapshot)
    changed = [] if state.data is None else data_changes(state.data, snapshot, allow_data_change)
    load_weights(state.generator, snapshot, "G")
    load_weights(state.discriminator, snapshot, "D")
    load_weights(state.ema, snapshot, "G_ema")
    _load_optimiser(state.optimiser_g, state.generator, snapshot.tensors("optim_G"))
    _load_optimiser(state.optimiser_d, state.discriminator, snapshot.tensors("optim_D"))
    state.path_length_mean.copy_(snapshot.tensors("loss")["path_length_mean"])
    header = snapshot.header
    try:
        augment_p = state.counters.augment_p
        state.counters = Counters(**header["counters"])
        scale_learning_rates(state)
        if state.cfg.training.augment.mode is not AugmentMode.ADA:
            state.counters.augment_p = augment_p  # as configured now
        if changed:
            lines.append(f"resume: another data set ({', '.join(changed)}); its order begins anew")
        else:
            state.sampler.load_state_dict(header["sampler"])
        return lines + _load_draws(state, header)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"snapshot {snapshot.path}: cannot continue: {error}") from None


def _load_draws(state: State, header: dict[str, Any]) -> list[str]:
    """Random numbers go on where they were; on another kind of device, or in another number of
    processes, new streams begin. Returns the line that says so."""
    saved = [header["draws"], *header.get("draws_of_others", [])]
    device = header.get("draws_device", "cpu")
    same = device == state.device.type and len(saved) == world_size()
    if same and isinstance(state.draws, RandomDraws):
        state.draws.set_state(saved[rank()])
        return []
    cfg = state.cfg.training
    seed = (cfg.seed + state.counters.images_seen) * world_size() + rank()
    state.draws = RandomDraws(seed, state.device)
    before, now = f"{len(saved)} on {device}", f"{world_size()} on {state.device.type}"
    return [f"resume: processes {before} -> {now}: new streams of random numbers"]
