"""Which process of how many this is, and what its share of a batch is."""

from __future__ import annotations

import pytest
import torch

from epigraf.config import Config
from epigraf.errors import ConfigError, TrainingError
from epigraf.training import distributed
from epigraf.training.place import Place, find_place


def test_batches_that_do_not_divide_are_refused(small_config: Config) -> None:
    cfg = small_config.with_overrides(["training.batch_size=12"])
    assert cfg.split(3).per_pass == 4
    with pytest.raises(ConfigError, match="batch_size 12 must be a multiple of the number of pro"):
        cfg.split(5)
    with pytest.raises(ConfigError, match=r"\(6\) must be a multiple of .*mbstd_group_size 4"):
        cfg.split(2)
    parted = cfg.with_overrides(["training.batch_gpu=4"])
    with pytest.raises(ConfigError, match="batch_gpu 4 must divide the 6 images of a process"):
        parted.split(2)
    assert (parted.split(1).passes, parted.split(3).passes) == (3, 1)


def test_the_place_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert find_place() == Place(0, 1, 0, 1)
    values = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
              "MASTER_ADDR": "a", "MASTER_PORT": "1"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert find_place() == Place(5, 8, 1, 4)
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(TrainingError, match="RANK must be a number from 0 below 8, got '8'"):
        find_place()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(TrainingError, match="MASTER_PORT is not set; start with torchrun"):
        find_place()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    own = distributed._own_device
    assert own(Place(3, 4, 1, 2), None) == torch.device("cuda", 1)
    assert own(Place(), None) == torch.device("cuda")
    assert own(Place(2, 4, 0, 2), "cuda") == torch.device("cuda", 0)
    assert own(Place(3, 4, 1, 2), "cuda") == torch.device("cuda", 1)
    assert own(Place(3, 4, 1, 2), "cpu") == torch.device("cpu")
    with pytest.raises(TrainingError, match="4 processes on a machine with 2 GPUs; give --gpus 2"):
        own(Place(0, 4, 0, 4), None)
