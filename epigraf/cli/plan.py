"""`epigraf plan`: memory, seconds and days of a run before it is started."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from epigraf.config import load_config
from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    from epigraf.benchmarks.result import Result
    from epigraf.config import Config
    from epigraf.training.plan import Gpu, Measured, Plan

RESULTS = Path("bench-results")


class GpuName(Enum):
    """Devices whose data sheets are known."""

    A100 = "A100"
    H100 = "H100"
    V100 = "V100"
    RTX4090 = "RTX4090"


def plan(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A preset (see `epigraf configs`) or a file.")
    ],
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Change one key: a.b=c. Repeatable.")
    ] = None,
    gpu: Annotated[
        GpuName | None,
        typer.Option(
            "--gpu",
            case_sensitive=False,
            help="[dim]Default: this machine where `epigraf bench step` ran, else A100[/dim]",
        ),
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many of them.")] = 1,
    bench: Annotated[
        Path | None,
        typer.Option(
            "--bench",
            help="A result of `epigraf bench step` to go by. [dim]Default: the newest of this "
            "machine in ./bench-results[/dim]",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will need: parameters, memory, FLOPs, seconds per kimg, days.

    Times are measured where `epigraf bench step` ran on this machine; elsewhere they are marked as
    predictions.

    [bold]Examples[/bold]

      epigraf plan ffhq512-author --gpu A100 --gpus 8
      epigraf plan plants64 --bench bench-results/step.json
      epigraf plan ffhq512 --set training.batch_gpu=4 --gpu RTX4090 --json
    """
    from epigraf.training.plan import GPUS, make_plan

    cfg = load_config(config, override or [])
    if cfg.model.generator.tri_plane.fixed:
        raise EpigrafError(f"plan {config}: is for `epigraf fit`, which trains no GAN")
    if cfg.training.batch_size % gpus:
        raise EpigrafError(
            f"--gpus {gpus}: must divide training.batch_size {cfg.training.batch_size}"
        )
    measured = _named(bench, gpu) if bench is not None else _newest(cfg, gpu)
    device = GPUS[gpu.value] if gpu is not None else _gpu_of(measured)
    made = make_plan(cfg, device, gpus, measured)
    if as_json:
        typer.echo(json.dumps(_values(made), indent=2))
        return
    for line in _lines(made):
        typer.echo(line)


def _gpu_of(measured: Measured | None) -> Gpu | None:
    """The data sheet of what was measured, where it is known; an A100 where nothing was."""
    from epigraf.training.plan import GPUS

    if measured is None:
        return GPUS[GpuName.A100.value]
    named = (gpu for gpu in GPUS.values() if _is_called(measured.machine, gpu.name))
    return next(named, None)


def _is_called(machine: str, gpu: str) -> bool:
    return gpu.lower() in machine.lower().replace(" ", "")


def _named(path: Path, gpu: GpuName | None) -> Measured:
    """The measured step of a file."""
    from epigraf.benchmarks.result import read_result

    result = read_result(path)
    if result.suite != "step" or not result.rows:
        raise EpigrafError(f"{path}: not a result of `epigraf bench step`")
    if gpu is not None and not _is_called(result.machine, gpu.value):
        raise EpigrafError(
            f"{path}: was measured on {result.machine}, not on {gpu.value}; leave out --gpu"
        )
    return _step_of(result, path)


def _newest(cfg: Config, gpu: GpuName | None) -> Measured | None:
    """The newest measurement of the device in question, one of this configuration first."""
    found: list[tuple[bool, str, Measured]] = []
    for path in sorted(RESULTS.glob("*_step.json")):
        if (usable := _usable(path, gpu)) is not None:
            date, measured = usable
            found.append((measured.cfg == cfg, date, measured))
    return max(found, key=lambda row: row[:2])[2] if found else None


def _usable(path: Path, gpu: GpuName | None) -> tuple[str, Measured] | None:
    """A whole measurement of this machine, or of the device asked for, and its date."""
    from epigraf.benchmarks.machine import machine_name
    from epigraf.benchmarks.result import read_result

    try:
        result = read_result(path)
        here = machine_name(str(result.facts.get("device", "cpu")))
        wanted = result.machine == here if gpu is None else _is_called(result.machine, gpu.value)
        if not wanted or not result.complete or result.quick:
            return None
        return result.date, _step_of(result, path)
    except (EpigrafError, RuntimeError, AssertionError):  # damaged; a preset, a GPU not here
        return None


def _step_of(result: Result, path: Path) -> Measured:
    """The quickest round of each phase, in the backend that was quickest in all."""
    from epigraf.training.plan import Measured

    config = result.facts.get("config", {})
    cfg = load_config(str(config.get("preset")), config.get("set", ()))
    steps = {row.implementation: row.best for row in result.rows if row.case == "step"}
    backend = min(steps, key=lambda name: steps[name])
    seconds = {
        row.case: row.best
        for row in result.rows
        if row.op == "step" and row.implementation == backend and row.case != "step"
    }
    return Measured(cfg, seconds, result.machine, path.name)


def _lines(made: Plan) -> list[str]:
    """The plan for people."""
    from epigraf.training.log import format_time

    cost, cfg = made.cost, made.cost.cfg
    device = made.gpu.name if made.gpu is not None else "this machine"
    rows = [
        f"config      {cfg.name}: {cfg.dataset.resolution}x{cfg.dataset.resolution}, batch "
        f"{cfg.training.batch_size} on {made.gpus} x {device}, {made.batch_gpu} images a pass",
        f"parameters  G {cost.generator_parameters / 1e6:.2f} M, "
        f"D {cost.discriminator_parameters / 1e6:.2f} M",
        "",
        "memory of a device                GiB",
        *(f"  {name:<28}{size / 2**30:>9.3f}" for name, size in made.memory.items()),
        f"  {'peak':<28}{made.peak / 2**30:>9.3f}{_room(made)}",
        "",
        "GFLOP of an image               forward   backward",
        *(
            f"  {part.name:<28}{part.forward / 1e9:>9.2f}{part.backward / 1e9:>11.2f}"
            for part in cost.by_part()
        ),
        f"  {'all':<28}{sum(p.forward for p in cost.by_part()) / 1e9:>9.2f}"
        f"{sum(p.backward for p in cost.by_part()) / 1e9:>11.2f}",
        "",
        f"time        {made.seconds_per_kimg:.3g} s/kimg, {format_time(made.days * 86400)} to "
        f"{cfg.training.kimg:g} kimg" + _scaling(made),
        f"            {made.dominant[0]} dominates with {made.dominant[1]:.0%}",
        f"source      {made.source}",
    ]
    if made.predicted:
        rows.append(f"            measure it: epigraf bench step --config {cfg.name}")
    return rows


def _scaling(made: Plan) -> str:
    return f" (perfect scaling to {made.gpus} devices assumed)" if made.gpus > 1 else ""


def _room(made: Plan) -> str:
    if made.gpu is None:
        return ""
    room = f" of {made.gpu.memory:g}"
    if made.suggested is None:
        return f"{room}: not even the smallest pass fits"
    return f"{room}; training.batch_gpu={made.suggested} is the most that fits"


def _values(made: Plan) -> dict[str, Any]:
    """The plan for programs; bytes, FLOPs of one image, seconds."""
    cost, cfg = made.cost, made.cost.cfg
    return {
        "config": cfg.name,
        "gpu": None if made.gpu is None else made.gpu.name,
        "gpus": made.gpus,
        "parameters": {"G": cost.generator_parameters, "D": cost.discriminator_parameters},
        "batch_gpu": made.batch_gpu,
        "suggested_batch_gpu": made.suggested,
        "memory_bytes": made.memory | {"peak": made.peak},
        "flops_per_image": {
            part.name: {"forward": part.forward, "backward": part.backward}
            for part in cost.by_part()
        },
        "flops_per_image_by_phase": {
            name: flops * cost.shares()[name] for name, flops in cost.phases().items()
        },
        "seconds_per_image": made.seconds,
        "seconds_per_kimg": made.seconds_per_kimg,
        "kimg": cfg.training.kimg,
        "days": made.days,
        "dominant": {"part": made.dominant[0], "share": made.dominant[1]},
        "predicted": made.predicted,
        "source": made.source,
    }
