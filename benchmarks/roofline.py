"""Roofs of the fused renderer on a GPU: what a sample costs, what data sheets allow.

Predictions for `epigraf bench kernels`; nothing here was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32


@dataclass(frozen=True)
class Case:
    """What the renderer is asked for: C channels, H hidden units, S coarse and F fine samples,
    planes of `side` squared; `batch` pictures of `rays` rays share their planes."""

    channels: int = 32
    hidden: int = 64
    coarse: int = 48
    fine: int = 48
    side: int = 256
    rays: int = 64 * 64

    @property
    def samples(self) -> int:
        """N."""
        return self.coarse + self.fine


@dataclass(frozen=True)
class Gpu:
    """A data sheet: multiprocessors, float lanes of each, peak TFLOP/s (float, no tensor cores),
    GB/s of memory."""

    name: str
    arch: int
    processors: int
    lanes: int
    tflops: float
    bandwidth: float

    @property
    def clock(self) -> float:
        """Hz at which the peak is reached."""
        return self.tflops * 1e12 / (2 * self.lanes * self.processors)


GPUS = (
    Gpu("A100 SXM 80 GB", 80, 108, 64, 19.5, 2039),
    Gpu("H100 SXM", 90, 132, 128, 66.9, 3350),
    Gpu("RTX 4090", 89, 128, 128, 82.6, 1008),
)


@dataclass(frozen=True)
class Work:
    """Of one sample: floating-point operations, words of 128 bytes that a multiprocessor's shared
    memory moves (one a clock), bytes of planes read and added to, bytes per sample kept."""

    flops: float
    shared_words: float
    tap_bytes: float
    kept_bytes: float


def forward_work(case: Case) -> Work:
    """Look-up of 12 taps, two layers. In shared memory 16 hidden units cost, for each channel, the
    feature and four 16-byte rows of weights; then four weights for each unit."""
    c, h = case.channels, case.hidden
    return Work(
        flops=3 * 4 * 2 * c + c + 2 * (c * h + 4 * h) + h,
        shared_words=(h / 16 * c * 5 + h) / WARP + c / 16,
        tap_bytes=3 * 4 * c * 4,
        kept_bytes=5 * 4,
    )


def backward_work(case: Case) -> Work:
    """Look-up and first layer again, the gradients of both layers, their inputs and the planes."""
    c, h = case.channels, case.hidden
    blocks = h / 16
    words = (
        blocks * c * 5 + blocks * WARP * 3 + h + blocks * c * 6 + blocks * WARP * 5 * -(-c // 32)
    )
    return Work(
        flops=3 * 4 * 2 * c + c + 3 * 2 * c * h + h + 2 * 2 * 4 * h + 3 * 4 * 2 * c,
        shared_words=words / WARP + c / 8,
        tap_bytes=2 * 3 * 4 * c * 4,
        kept_bytes=5 * 4,
    )


def rays_per_second(gpu: Gpu, case: Case, work: Work, *, cached: bool) -> tuple[float, str]:
    """The roof: rays/s if the busiest of three units never waits, and which it is. cached: taps
    come from the caches, and memory moves the planes of a picture once."""
    per_ray = case.samples * work.kept_bytes
    planes = 3 * case.channels * case.side**2 * 4
    per_ray += planes / case.rays if cached else case.samples * work.tap_bytes
    clocks = gpu.clock * gpu.processors
    seconds = {
        "arithmetic": case.samples * work.flops / (gpu.tflops * 1e12),
        "shared memory": case.samples * work.shared_words / clocks,
        "memory": per_ray / (gpu.bandwidth * 1e9),
    }
    bound = max(seconds, key=lambda unit: seconds[unit])
    return 1 / seconds[bound], bound
