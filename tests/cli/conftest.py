"""A small untrained model on disk, and a way to run commands in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from epigraf.cli.app import app
from epigraf.config import Config
from epigraf.models.generator import Generator
from epigraf.models.loading import write_snapshot

SMALL = {
    "name": "small",
    "dataset": {
        "resolution": 16,
        "c_dim": 3,
        "white_back": True,
        "object_radius": 0.25,
        "cube_scale": 0.25,
        "camera": {"fov": 30.0, "ray_start": 0.75, "ray_end": 1.25},
    },
    "model": {
        "generator": {
            "z_dim": 8,
            "w_dim": 16,
            "map_lr_multiplier": 1.0,
            "cmax": 16,
            "num_ray_steps": 6,
            "num_fine_steps": 0,
            "density_gain": 20.0,
            "tri_plane": {"res": 8, "feat_dim": 4, "mlp": {"hid_dim": 8}},
        }
    },
    "training": {"use_labels": True, "patch": {"enabled": False}},
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one snapshot."""
    cfg = Config.from_dict(SMALL)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "00000-small"
    folder.mkdir()
    header = {"config": cfg.to_dict(), "counters": {"images_seen": 3000}}
    weights = {"G_ema": Generator(cfg).state_dict()}
    write_snapshot(folder / "network-snapshot-000003.safetensors", header, weights)
    return folder


@pytest.fixture
def epigraf() -> Callable[..., Result]:
    """Run `epigraf ARGS` here; arguments are turned into text."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run
