"""What a run will need: memory by part, seconds and days, and which part dominates.

Where a step was measured on the machine in question, its phases scale with their FLOPs. Elsewhere a
roofline predicts: each part takes as long as its arithmetic or its memory traffic, whichever is
longer, at an assumed share of the data sheet's peak. Sizes are those of one GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from epigraf.config import Config, LossName
from epigraf.training.cost import FLOAT, R1_SAVED, Cost, PartCost, cost_of
from epigraf.training.step import Phase

CONV_SHARE, FLOAT_SHARE, BANDWIDTH_SHARE = 0.3, 0.6, 0.7
"""Of the peak of tensor cores (TF32), float32 lanes, memory: what is assumed to be reached."""
USABLE = 0.9  # of a GPU's memory; the rest is the context, fragments, what cuDNN works in
WORKING_MAPS = 4  # largest feature maps that a backward pass has in hand beside what is kept
GIB = 2.0**30


@dataclass(frozen=True)
class Gpu:
    """A data sheet: GiB, TFLOP/s of float32 and of TF32 tensor cores (None: it has none), GB/s."""

    name: str
    memory: float
    tflops: float
    conv_tflops: float | None
    bandwidth: float

    def seconds(self, part: PartCost) -> float:
        """Of one image, by the roofline. Only convolutions run on tensor cores."""
        convolves = part.name.startswith(("backbone", "discriminator", "R1"))
        peak = self.tflops * FLOAT_SHARE
        if convolves and self.conv_tflops is not None:
            peak = self.conv_tflops * CONV_SHARE
        arithmetic = part.flops / (peak * 1e12)
        return max(arithmetic, part.moved / (self.bandwidth * BANDWIDTH_SHARE * 1e9))


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100", 80, 19.5, 156, 2039),
        Gpu("H100", 80, 66.9, 494, 3350),
        Gpu("V100", 32, 15.7, None, 900),
        Gpu("RTX4090", 24, 82.6, 82.6, 1008),
    )
}


@dataclass(frozen=True)
class Measured:
    """A measured step: of which configuration, seconds by phase, on what, from which file."""

    cfg: Config
    seconds: Mapping[str, float]
    machine: str
    source: str


@dataclass(frozen=True)
class Plan:
    """The forecast of a run on `gpus` devices.

    Attributes:
        cost: what is computed.
        gpu: the device; None for the machine that was measured.
        gpus: how many, at perfect scaling.
        batch_gpu: images of one pass.
        memory: bytes on a device, by part.
        suggested: the largest images per pass that fit; None where nothing says how much there is
            or not even the smallest fits.
        seconds: of one image on one device, by part or (measured) by phase.
        source: where the seconds come from.
        predicted: whether nothing was measured.
    """

    cost: Cost
    gpu: Gpu | None
    gpus: int
    batch_gpu: int
    memory: dict[str, float]
    suggested: int | None
    seconds: dict[str, float]
    source: str
    predicted: bool

    @property
    def peak(self) -> float:
        """Bytes on a device."""
        return sum(self.memory.values())

    @property
    def seconds_per_kimg(self) -> float:
        """Wall time of a thousand images on all devices."""
        return 1000 * sum(self.seconds.values()) / self.gpus

    @property
    def days(self) -> float:
        """Wall time to `training.kimg`."""
        return self.seconds_per_kimg * self.cost.cfg.training.kimg / 86400

    @property
    def dominant(self) -> tuple[str, float]:
        """The part that takes longest (blocks of the backbone together), and its share."""
        joined: dict[str, float] = {}
        for name, seconds in self.seconds.items():
            name = name.split(" b")[0] if name.startswith("backbone") else name
            joined[name] = joined.get(name, 0.0) + seconds
        name = max(joined, key=lambda part: joined[part])
        return name, joined[name] / sum(joined.values())


def make_plan(cfg: Config, gpu: Gpu | None, gpus: int, measured: Measured | None = None) -> Plan:
    """Forecast a run.

    Args:
        cfg: its configuration; the batch is shared among the devices.
        gpu: the device, or None for the measured machine.
        gpus: how many, >= 1.
        measured: a step on this device, of this or another configuration.
    Raises:
        ValueError: neither a device nor a measurement.
    """
    cost = cost_of(cfg)
    own = max(cfg.training.batch_size // gpus, 1)
    batch = min(cfg.batch_gpu, own)
    if measured is not None:
        seconds = _scaled(cost, measured)
        source = f"measured on {measured.machine} ({measured.source})"
        if measured.cfg != cfg:
            source = f"scaled by FLOPs from {measured.cfg.name}, {source}"
    elif gpu is not None:
        seconds = {part.name: gpu.seconds(part) for part in cost.by_part()}
        source = (
            f"PREDICTION, nothing was measured: roofline of the data sheet at {FLOAT_SHARE:.0%} of "
            f"float32, {CONV_SHARE:.0%} of TF32 for convolutions, {BANDWIDTH_SHARE:.0%} of memory"
        )
    else:
        raise ValueError("make_plan: give a GPU or a measurement")
    return Plan(
        cost=cost,
        gpu=gpu,
        gpus=gpus,
        batch_gpu=batch,
        memory=memory_of(cost, batch),
        suggested=None if gpu is None else _suggest(cost, own, gpu),
        seconds=seconds,
        source=source,
        predicted=measured is None,
    )


def memory_of(cost: Cost, batch: int) -> dict[str, float]:
    """Bytes by part at the fullest moment of a step with `batch` images a pass."""
    g, d = FLOAT * cost.generator_parameters, FLOAT * cost.discriminator_parameters
    kept = _generator_pass(cost, batch)
    other = batch * max(_other_passes(cost))
    activations = kept if sum(kept.values()) >= other else {"D and R1 activations": other}
    return {
        "weights": g + d,
        "gradients": g + d,
        "Adam": 2 * (g + d),
        "EMA": g,
        **({"D's weights in 16 bits": cost.cast_weights} if cost.cast_weights else {}),
        **activations,
        "working buffers": WORKING_MAPS * batch * cost.largest,
    }


def _generator_pass(cost: Cost, batch: int) -> dict[str, float]:
    """Bytes that Gmain keeps: planes and their gradient, features, samples, D's features."""
    backbone = sum(p.saved for p in cost.parts if p.name.startswith("backbone"))
    field = sum(p.saved for p in cost.parts) - backbone
    return {
        "planes and their gradient": 2 * batch * cost.planes,
        "backbone activations": batch * backbone,
        "renderer": batch * field,
        "D activations": batch * cost.discriminator.saved,
    }


def _other_passes(cost: Cost) -> list[float]:
    """Bytes per image that Dmain and R1 keep."""
    saved, paired = cost.discriminator.saved, cost.cfg.training.loss is LossName.R3GAN
    both = 2 if paired else 1
    joint = paired and cost.penalised and cost.cfg.lazy_r1_interval is None
    main = both * saved * (R1_SAVED if joint else 1)
    return [main, R1_SAVED * saved * cost.penalised]


def _suggest(cost: Cost, own: int, gpu: Gpu) -> int | None:
    """The largest part of a device's batch that fits, in whole groups of whole objects."""
    cfg = cost.cfg
    views = cfg.training.patches_per_latent
    for size in (own // n for n in range(1, own + 1) if own % n == 0):
        group = min(cfg.model.discriminator.mbstd_group_size, size)
        whole = size % views == 0 and (size // views) % group == 0
        if whole and sum(memory_of(cost, size).values()) <= USABLE * gpu.memory * GIB:
            return size
    return None


def _scaled(cost: Cost, measured: Measured) -> dict[str, float]:
    """Seconds of an image by phase: those measured, times the ratio of FLOPs.

    The optimiser and the weight average go by parameters and the batch; data by images.
    """
    before = cost if measured.cfg == cost.cfg else cost_of(measured.cfg)
    old, new, shares = before.phases(), cost.phases(), cost.shares()
    old_batch, batch = measured.cfg.training.batch_size, cost.cfg.training.batch_size
    found: dict[str, float] = {}
    for name in {**new, **measured.seconds}:
        seconds = measured.seconds.get(name)
        if name in new:
            found[name] = shares[name] * _phase_seconds(name, new, old, measured, old_batch)
        elif seconds is not None and name not in {p.value for p in Phase}:
            by_image = name == "data"
            sizes = (_parameters(cost) / _parameters(before)) / batch
            found[name] = seconds / old_batch if by_image else seconds * sizes
    return found


def _phase_seconds(
    name: str, new: dict[str, float], old: dict[str, float], measured: Measured, batch: int
) -> float:
    """Of one image; a phase that was not measured runs at the speed of all others together."""
    known = [phase for phase in old if phase in measured.seconds]
    if name in known:
        return measured.seconds[name] / batch * new[name] / old[name]
    rate = sum(old[phase] for phase in known) / sum(measured.seconds[p] for p in known)
    return new[name] / (rate * batch)


def _parameters(cost: Cost) -> int:
    return cost.generator_parameters + cost.discriminator_parameters
