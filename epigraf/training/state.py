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
from epigraf.data.images import ImageDataset, InfiniteSampler
from epigraf.errors import CheckpointError, ConfigError
from epigraf.models.discriminator import Discriminator
from epigraf.models.generator import Generator
from epigraf.models.loading import Snapshot, load_weights, write_snapshot
from epigraf.rendering.camera import minimal_cube_scale
from epigraf.rendering.draws import Draws, RandomDraws
from epigraf.training.augment import AugmentPipe
from epigraf.training.schedules import lazy_optimiser


@dataclass
class Counters:
    """Numbers that move while training. `tick_start` is in images, `seconds` is wall time."""

    step: int = 0
    images_seen: int = 0
    tick: int = 0
    tick_start: int = 0
    seconds: float = 0.0
    augment_p: float = 0.0
    sign_sum: float = 0.0
    sign_count: int = 0


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
    loss, mode = cfg.model.loss_kwargs, cfg.training.augment.mode
    pl_interval = loss.pl_interval if loss.pl_weight > 0 else None
    r1_interval = cfg.training.r1_interval if cfg.gamma > 0 else None
    augment = None if mode is AugmentMode.NOAUG else AugmentPipe(cfg.training.augment.probs)
    return State(
        cfg=cfg,
        generator=generator,
        discriminator=discriminator,
        ema=ema,
        optimiser_g=_adam(generator, cfg.model.generator.optim, pl_interval),
        optimiser_d=_adam(discriminator, cfg.model.discriminator.optim, r1_interval),
        augment=augment.to(device) if augment is not None else None,
        draws=RandomDraws(seed, device),
        sampler=InfiniteSampler(num_items, seed),
        path_length_mean=torch.zeros((), device=device),
        counters=Counters(augment_p=cfg.training.augment.p if mode is AugmentMode.FIXED else 0.0),
    )


def _adam(network: torch.nn.Module, optim: Any, interval: int | None) -> torch.optim.Adam:
    lr, betas = lazy_optimiser(optim, interval)
    return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, eps=1e-8, fused=True)


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


def save_state(state: State, path: Path, extra: dict[str, Any] | None = None) -> None:
    """Write a snapshot from which `load_state` continues bit-identically (on a CPU).

    Args:
        state: the run, between two steps.
        path: see `write_snapshot`.
        extra: more JSON-ready values for the header (the best metric so far).
    """
    if not isinstance(state.draws, RandomDraws):
        raise TypeError("save_state: replayed random numbers have no state to save")
    header = {
        "config": state.cfg.to_dict(),
        "counters": asdict(state.counters),
        "draws": state.draws.get_state(),
        "draws_device": state.device.type,
        "sampler": dict(state.sampler.state_dict()),
        **(extra or {}),
    }
    groups = {
        "G": state.generator.state_dict(),
        "D": state.discriminator.state_dict(),
        "G_ema": state.ema.state_dict(),
        "optim_G": _optimiser_tensors(state.optimiser_g, state.generator),
        "optim_D": _optimiser_tensors(state.optimiser_d, state.discriminator),
        "loss": {"path_length_mean": state.path_length_mean},
    }
    write_snapshot(path, header, groups)


def load_state(state: State, snapshot: Snapshot) -> None:
    """Bring a freshly built `state` to where `snapshot` was taken.

    Raises:
        CheckpointError: the snapshot is damaged or belongs to another model or data set.
    """
    check_same_model(state.cfg, snapshot)
    load_weights(state.generator, snapshot, "G")
    load_weights(state.discriminator, snapshot, "D")
    load_weights(state.ema, snapshot, "G_ema")
    _load_optimiser(state.optimiser_g, state.generator, snapshot.tensors("optim_G"))
    _load_optimiser(state.optimiser_d, state.discriminator, snapshot.tensors("optim_D"))
    state.path_length_mean.copy_(snapshot.tensors("loss")["path_length_mean"])
    header = snapshot.header
    try:
        state.counters = Counters(**header["counters"])
        state.sampler.load_state_dict(header["sampler"])
        _load_draws(state, header["draws"], header.get("draws_device", "cpu"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"snapshot {snapshot.path}: cannot continue: {error}") from None


def _load_draws(state: State, saved: dict[str, Any], device: str) -> None:
    """Random numbers go on where they were; on another kind of device a new stream begins."""
    if device == state.device.type and isinstance(state.draws, RandomDraws):
        state.draws.set_state(saved)
    else:
        seed = state.cfg.training.seed + state.counters.images_seen
        state.draws = RandomDraws(seed, state.device)


def check_same_model(cfg: Config, snapshot: Snapshot) -> None:
    """Networks can only be continued as what they are; learning rates and lengths may change.

    Raises:
        CheckpointError: names the first key that differs.
    """
    old, new = (_architecture(c) for c in (snapshot.config, cfg))
    different = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if different:
        key = different[0]
        raise CheckpointError(
            f"snapshot {snapshot.path}: was trained with {key}={old.get(key)}, the configuration "
            f"says {new.get(key)}; resume with the same model, or start a new run"
        )


def _architecture(cfg: Config) -> dict[str, Any]:
    values = cfg.to_dict()
    kept = {
        "model": {k: v for k, v in values["model"].items() if k in ("generator", "discriminator")},
        "dataset": {k: values["dataset"][k] for k in ("resolution", "c_dim", "cube_scale")},
        "training": {"use_labels": values["training"]["use_labels"]},
    }
    flat = dict(_flatten("", kept))
    return {k: v for k, v in flat.items() if ".optim." not in k and "_steps" not in k}


def _flatten(prefix: str, node: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in node.items():
        name = f"{prefix}{key}"
        rows += _flatten(name + ".", value) if isinstance(value, dict) else [(name, value)]
    return rows
