"""How the images of a step are shared out: over processes, then over passes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchSplit:
    """`batch` images a step = `processes` x `per_process`; a process takes `per_pass` at a time."""

    batch: int
    processes: int
    per_process: int
    per_pass: int

    @property
    def passes(self) -> int:
        """Passes whose gradients a process adds up before each optimiser step."""
        return self.per_process // self.per_pass


def split_batch(
    batch: int, batch_gpu: int | None, group: int, processes: int = 1, views: int = 1
) -> BatchSplit:
    """Share out a batch.

    Args:
        batch: `training.batch_size`, over all processes.
        batch_gpu: `training.batch_gpu`, the images of one pass; None takes all of a process.
        group: `model.discriminator.mbstd_group_size`; statistics and patches are per group, and a
            group lies within one pass.
        processes: how many train together, >= 1.
        views: `training.patches_per_latent`, the images of one object in a pass.
    Raises:
        ValueError: something does not divide; says what.
    """
    if batch % processes:
        raise ValueError(
            f"training.batch_size {batch} must be a multiple of the number of processes {processes}"
        )
    per_process = batch // processes
    part = batch_gpu or per_process
    if per_process % part:
        whole = f"training.batch_size {batch}"
        if processes > 1:
            whole = f"the {per_process} images of a process ({whole} on {processes} processes)"
        raise ValueError(f"training.batch_gpu {part} must divide {whole}")
    if part % min(group, part):
        raise ValueError(
            f"images per pass ({part}) must be a multiple of "
            f"model.discriminator.mbstd_group_size {group}"
        )
    if views > 1 and (part % views or (part // views) % min(group, part)):
        raise ValueError(
            f"training.patches_per_latent {views} must divide the images per pass ({part}) into a "
            f"multiple of model.discriminator.mbstd_group_size {group} objects: the members of a "
            f"minibatch-stddev group are different objects"
        )
    return BatchSplit(batch, processes, per_process, part)
