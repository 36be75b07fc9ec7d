"""Presets against the official settings (spec: the data set table and issue #13)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import yaml
from typer.testing import Result

from epigraf.config import CameraDist, Config, list_presets, load_config
from epigraf.errors import ConfigError
from epigraf.models.discriminator import Discriminator
from epigraf.models.generator import Generator

Run = Callable[..., Result]
PRESETS = {
    *(f"{name}{size}" for name in ("ffhq", "cats", "plants", "food") for size in (256, 512)),
    "ffhq512-author",
    "tiny",
    "cats64",
    "plants64",
    "plants128",
}
# fov, near, far, cube, white, classes
OFFICIAL = {
    "ffhq": (12.0, 0.88, 1.12, 0.2, False, 0),
    "cats": (12.0, 0.88, 1.12, 0.2, False, 0),
    "plants": (30.0, 0.75, 1.25, 0.475, True, 198),
    "food": (30.0, 0.75, 1.25, 0.475, True, 10),
}


def test_all_presets_are_there() -> None:
    assert set(list_presets()) >= PRESETS


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_resolves_and_builds(name: str) -> None:
    cfg = load_config(name)
    assert cfg.name == name
    assert Config.from_dict(cfg.to_dict()) == cfg
    with torch.device("meta"):
        generator, discriminator = Generator(cfg), Discriminator(cfg)
    parameters = [sum(p.numel() for p in n.parameters()) for n in (generator, discriminator)]
    assert min(parameters) > 100_000


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_states_only_differences(name: str) -> None:
    """Every key differs from the default, or is one of those that a reader wants to see."""
    shown = {"name", "resolution", "fov", "ray_start", "ray_end", "dist", "cube_scale"}
    shown |= {"horizontal_mean", "vertical_mean", "horizontal_stddev", "vertical_stddev"}
    values = yaml.safe_load(list_presets()[name].read_text(encoding="utf-8"))
    repeated = [k for k in _same(values, Config().to_dict()) if k.split(".")[-1] not in shown]
    assert not repeated


def _same(values: dict[str, object], defaults: dict[str, object], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        default = defaults[key]
        if isinstance(value, dict) and isinstance(default, dict):
            found += _same(value, default, f"{prefix}{key}.")
        elif value == default:
            found.append(f"{prefix}{key}")
    return found


@pytest.mark.parametrize("size", [256, 512])
@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_official_values(name: str, size: int) -> None:
    fov, near, far, cube, white, classes = OFFICIAL[name]
    cfg = load_config(f"{name}{size}")
    data, camera = cfg.dataset, cfg.dataset.camera
    assert (camera.fov, camera.ray_start, camera.ray_end) == (fov, near, far)
    assert (data.cube_scale, data.white_back, data.last_back) == (cube, white, False)
    assert (data.resolution, cfg.c_dim, camera.radius) == (size, classes, 1.0)
    if white:
        assert camera.dist is CameraDist.SPHERICAL_UNIFORM
        assert camera.horizontal_stddev == math.pi
        assert camera.vertical_mean == camera.vertical_stddev == math.pi / 2
    else:
        assert camera.dist is CameraDist.CUSTOM
    # the model is shared by all data sets
    assert cfg.model == Config().model
    assert cfg.training.batch_size == 64
    assert cfg.gamma == pytest.approx({256: 0.2048, 512: 0.8192}[size])
    assert cfg.training.patch.resolution == 64
    assert cfg.patch_min_scale == 64 / size


def test_the_recipe_of_the_author() -> None:
    cfg = load_config("ffhq512-author")
    assert cfg.dataset == load_config("ffhq512").dataset
    assert (cfg.gamma, cfg.training.batch_size) == (0.05, 32)
    assert cfg.model.discriminator.camera_cond
    assert cfg.model.discriminator.camera_cond_raw
    assert cfg.model.generator.camera_cond
    assert cfg.training.augment.mode.value == "noaug"


def test_unknown_keys_name_the_nearest(epigraf: Run) -> None:
    with pytest.raises(ConfigError, match=r"training\.gamma"):
        load_config("tiny", ["model.training.gamma=0.1"])
    result = epigraf("configs", "tiny", "--set", "training.gama=1")
    assert result.exit_code == 1
    assert "training.gamma" in result.stderr
    assert result.stderr.count("\n") == 1
    result = epigraf("configs", "plant64")
    assert result.exit_code == 1
    assert "did you mean 'plants64'" in result.stderr


def test_the_list_and_a_full_configuration(epigraf: Run) -> None:
    result = epigraf("configs")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in PRESETS)
    result = epigraf("configs", "tiny", "--set", "training.gamma=0.25")
    assert result.exit_code == 0
    printed = Config.from_dict(yaml.safe_load(result.stdout))
    assert printed == load_config("tiny", ["training.gamma=0.25"])
