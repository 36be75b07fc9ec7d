"""A data set and a configuration so small that a training step takes a fraction of a second."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from epigraf.config import Config


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small lose more than they gain by threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve posed and labelled images of 16x16 in a folder."""
    folder = tmp_path_factory.mktemp("data") / "dots"
    folder.mkdir()
    random = np.random.default_rng(0)
    labels, angles = [], {}
    for i in range(12):
        name = f"{i:03d}.png"
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        labels.append([name, i % 3])
        angles[name] = [float(random.uniform(-1, 1)), float(random.uniform(1, 2)), 0.0]
    text = json.dumps({"labels": labels, "camera_angles": angles})
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def small_config() -> Config:
    """Everything on: patches, ADA, labels, both camera conditions, R1 every second step."""
    generator = {
        "z_dim": 8, "w_dim": 8, "cmax": 8, "num_ray_steps": 4, "camera_cond": True,
        "camera_cond_drop_p": 0.2, "camera_cond_noise_std": 0.1, "nerf_noise_kimg_growth": 1,
        "tri_plane": {"res": 16, "feat_dim": 4, "mlp": {"hid_dim": 8}},
    }  # fmt: skip
    return Config.from_dict(
        {
            "name": "small",
            "dataset": {"resolution": 16},
            "model": {
                "generator": generator,
                "discriminator": {"cmax": 8, "camera_cond": True, "camera_cond_drop_p": 0.2},
                "loss_kwargs": {"blur_fade_kimg": 1},
            },
            "training": {
                "batch_size": 4, "gamma": 1.0, "r1_interval": 2, "use_labels": True,
                "kimg": 0.024, "tick": 0.008, "image_snap": 1, "snap": 1, "metric_samples": 0,
                "patch": {"resolution": 8, "anneal_kimg": 1},
                "augment": {"interval": 2, "speed_kimg": 0.05},
            },
        }
    )  # fmt: skip
