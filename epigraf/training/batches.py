"""What a step is fed: a batch of real images, and latents, labels and cameras for fakes.

Legend: B batch. Angles are (yaw, pitch, roll) in radians.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from epigraf.config import CameraDist, LossName
from epigraf.data.images import Batch, ImageDataset
from epigraf.rendering.camera import sample_camera_angles
from epigraf.training.distributed import images_per_pass, images_per_process, rank, world_size
from epigraf.training.losses import spoof_angles
from epigraf.training.passes import FakeInputs
from epigraf.training.schedules import Schedule
from epigraf.training.state import State


class Source(Protocol):
    """Feeds one step."""

    def reals(self) -> Batch:
        """The real images of the next phase that wants some."""
        ...

    def fakes(self, schedule: Schedule) -> FakeInputs:
        """Inputs of a batch of fakes for the next phase that renders."""
        ...


class DatasetSource:
    """One process's share of a batch: real images, the same for every phase, and fresh fakes for
    each.

    Taking it moves the run's sampler on by a whole batch. All processes walk the same order; the
    one of rank r of N takes items r, r + N, ... of it, so that no image is shown twice.
    """

    def __init__(self, state: State, dataset: ImageDataset) -> None:
        self._state, self._dataset = state, dataset
        order = state.sampler.next_batch(state.cfg.training.batch_size)
        self._items = self._grouped(order[rank() :: world_size()])
        batch, device = dataset.batch(self._items), state.device
        self._reals = Batch(
            batch.images.to(device), batch.labels.to(device), batch.angles.to(device)
        )

    def reals(self) -> Batch:
        """The batch."""
        return self._reals

    def fakes(self, schedule: Schedule) -> FakeInputs:
        """Latents, labels and cameras.

        Labels come from random items of the data set; so do the cameras where the configuration
        says `custom`, otherwise they are drawn from its prior.
        """
        state = self._state
        cfg, draws, device = state.cfg, state.draws, state.device
        views = cfg.training.patches_per_latent
        items = self._fake_items(images_per_process(cfg) // views)
        labels = torch.stack([self._dataset.label(i) for i in items]).repeat_interleave(views, 0)
        angles = self._angles(self._view_items(items, views))
        z = draws.normal("z", (len(items), cfg.model.generator.z_dim), torch.empty(0))
        cond = None
        if cfg.model.generator.camera_cond:
            first = angles[::views]
            cond = spoof_angles(first, schedule.spoof_probability, draws=draws).to(device)
        return FakeInputs(z.to(device), labels.to(device), angles.to(device), cond)

    def _fake_items(self, count: int) -> list[int]:
        """Items whose labels and cameras `count` objects take: random ones, or with the R3GAN loss
        the real images that they are paired with."""
        if self._state.cfg.training.loss is LossName.R3GAN:
            return self._items[:: len(self._items) // count]
        drawn = self._state.draws.integers("fake_item", len(self._dataset), (count,)).tolist()
        return self._grouped(drawn)

    def _view_items(self, items: list[int], views: int) -> list[int]:
        """For each object the items whose cameras its patches take: its own, then random ones of
        the same label."""
        if views == 1:
            return items
        picks = self._state.draws.random("view_item", (len(items), views - 1)).tolist()
        chosen = []
        for item, row in zip(items, picks, strict=True):
            alike = self._dataset.alike(item)
            chosen += [item, *(int(alike[int(pick * len(alike))]) for pick in row)]
        return chosen

    def _grouped(self, items: list[int]) -> list[int]:
        """With `training.group_labels`, items such that minibatch-stddev groups are of one class.

        Groups are strided: of a pass of P items in groups of G, item i is in group i mod P/G. The
        first P/G items stay, the others are drawn from the class of their group. A discriminator
        with labels then sees how varied a class is; groups of many classes look varied anyway.
        Items of objects with V patches each count V times: P/V of them are a pass.
        """
        cfg = self._state.cfg
        if not cfg.training.group_labels:
            return items
        group = min(cfg.model.discriminator.mbstd_group_size, images_per_pass(cfg))
        a_pass = images_per_pass(cfg) * len(items) // images_per_process(cfg)
        groups = a_pass // group
        picks = self._state.draws.random("group_item", (len(items),)).tolist()
        chosen = []
        for i, (item, pick) in enumerate(zip(items, picks, strict=True)):
            place = i % a_pass
            alike = self._dataset.alike(items[i - place + place % groups])
            chosen.append(item if place < groups else int(alike[int(pick * len(alike))]))
        return chosen

    def _angles(self, items: list[int]) -> Tensor:
        """Cameras [B, 3] to render from."""
        camera = self._state.cfg.dataset.camera
        if camera.dist is CameraDist.CUSTOM:
            return torch.stack([self._dataset.angles(i) for i in items])
        return sample_camera_angles(camera, len(items), draws=self._state.draws)
