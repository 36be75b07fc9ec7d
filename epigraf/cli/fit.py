"""`epigraf fit`: one object from posed pictures, as a model that all other commands read."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.cli.arguments import Device
from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    from collections.abc import Callable

    from epigraf.cli.progress import Meter
    from epigraf.data.views import PosedViews
    from epigraf.training.fit import Fit

STEPS = 2000
SAVE_SECONDS = 60.0
_DATA, _FIELD, _RUN = "Pictures", "Field", "Run"

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="A zip or folder of pictures, with poses in dataset.json or cams.json."
    ),
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")]
Object = Annotated[
    str | None,
    typer.Option(
        "--object", help="The folder of the object, where DATA holds several.",
        rich_help_panel=_DATA,
    ),
]  # fmt: skip
Resolution = Annotated[
    int | None,
    typer.Option(
        "--resolution", min=8, max=4096, help="Shrink the pictures to this side first.",
        rich_help_panel=_DATA,
    ),
]  # fmt: skip
HeldOut = Annotated[
    int,
    typer.Option(
        "--held-out", min=0, help="Every so-manieth view is not fitted but tests; 0: none.",
        rich_help_panel=_DATA,
    ),
]  # fmt: skip
Background = Annotated[
    str,
    typer.Option(
        "--background", help="white, black or R,G,B (0-255): what is behind the object.",
        rich_help_panel=_DATA,
    ),
]  # fmt: skip
Corners = Annotated[
    bool,
    typer.Option(
        "--corner-pixels",
        help="The border pixels lie on the frame's edge, as in pictures made by this package; "
        "those of cameras and renderers lie half a pixel inside.",
        rich_help_panel=_DATA,
    ),
]
Config = Annotated[
    str,
    typer.Option("--config", help="A preset or YAML file to start from.", rich_help_panel=_FIELD),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change one key, e.g. model.generator.tri_plane.res=256. Repeatable.",
        rich_help_panel=_FIELD,
    ),
]  # fmt: skip
Variation = Annotated[
    float,
    typer.Option(
        "--tv", min=0.0, max=1e6, help="Weight of the planes' total variation.",
        rich_help_panel=_FIELD,
    ),
]  # fmt: skip
Sparsity = Annotated[
    float,
    typer.Option(
        "--sparsity", min=0.0, max=1e6, help="Weight of the density's sparsity.",
        rich_help_panel=_FIELD,
    ),
]  # fmt: skip
Rate = Annotated[
    float,
    typer.Option(
        "--lr", min=1e-6, max=10.0, help="Adam's rate of the planes.", rich_help_panel=_FIELD
    ),
]
Rays = Annotated[
    int,
    typer.Option("--rays", min=1, max=1 << 20, help="Rays of a step.", rich_help_panel=_RUN),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", min=1,
        help=f"Steps in all. [dim]Default: {STEPS}, or as many as --minutes allow[/dim]",
        rich_help_panel=_RUN,
    ),
]  # fmt: skip
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", min=1e-3, help="Stop after this wall time.", rich_help_panel=_RUN),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", min=0, max=2**31, help="Of the first planes and all rays.", rich_help_panel=_RUN
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from OUT as it is.", rich_help_panel=_RUN)
]


def fit(
    data: Data,
    out: Out,
    object_name: Object = None,
    resolution: Resolution = None,
    held_out: HeldOut = 8,
    background: Background = "white",
    corner_pixels: Corners = False,
    config: Config = "fit",
    override: Overrides = None,
    tv: Variation = 0.02,
    sparsity: Sparsity = 0.0,
    lr: Rate = 0.2,
    rays: Rays = 2048,
    steps: Steps = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "auto",
) -> None:
    """Fit a tri-plane field to posed pictures of one object.

    OUT is a model like any other: sample, video, mesh and render it. Ctrl-C keeps the field so far.

    [bold]Examples[/bold]

      epigraf fit plant.zip plant.safetensors --minutes 2
      epigraf fit plants.zip plant.safetensors --object 00_cactus/05004 --steps 3000
      epigraf fit photos table.safetensors --set dataset.camera.fov=50 --background 128,128,128
      epigraf sample plant.safetensors --seeds 0 --views 8 --out turn.png
      epigraf mesh plant.safetensors --seeds 0 --out plant.glb
    """
    from epigraf.cli.media import check_target
    from epigraf.cli.models import find_device
    from epigraf.cli.values import require_finite
    from epigraf.config import load_config
    from epigraf.data.views import read_views
    from epigraf.training.fit import Fit, FitOptions, fit_config

    for name, value in (("--tv", tv), ("--sparsity", sparsity), ("--lr", lr)):
        require_finite(name, value)
    require_finite("--minutes", minutes)
    if out.suffix != ".safetensors":
        raise EpigrafError(f"{out}: must end in .safetensors")
    check_target(out)
    options = FitOptions(
        background=parse_colour(background), rays=rays, lr=lr, total_variation=tv,
        sparsity=sparsity, pixel_centers=not corner_pixels, seed=seed,
    )  # fmt: skip
    where, cfg = find_device(device), load_config(config, override or [])
    views = read_views(data, object_name, resolution)
    fitted, tested = split_views(views, held_out)
    work = Fit(fitted, fit_config(cfg, fitted, options), options, where)
    if resume:
        work.resume(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    typer.echo(
        f"{len(fitted)} views of {fitted.side}x{fitted.side}, {len(tested)} held out, "
        f"{'with' if views.alpha is not None else 'without'} opacities; from step {work.steps}"
    )
    _work(work, out, STEPS if steps is None and minutes is None else steps, minutes)
    typer.echo(f"{out}: {work.steps} steps, {_scores(work, fitted, tested)}")


def _work(work: Fit, out: Path, steps: int | None, minutes: float | None) -> None:
    """Fit with a progress bar; whatever happens, the field so far is written."""
    from epigraf.cli.progress import Meter
    from epigraf.training.fit import run_fit

    if steps is not None and steps <= work.steps:
        raise EpigrafError(f"--steps {steps}: {work.steps} are made already; give more")
    begun, first = time.monotonic(), work.steps
    try:
        with Meter("fit", 1.0) as meter:
            run_fit(work, steps, minutes, _watch(meter, work, out))
    except (KeyboardInterrupt, SystemExit):
        if work.steps > first:
            work.save(out)
            typer.echo(f"{out}: {work.steps} steps; --resume goes on", err=True)
        raise
    work.save(out)
    each = 1000 * (time.monotonic() - begun) / (work.steps - first)
    typer.echo(f"{work.steps - first} steps, {each:.0f} ms each")


def _watch(meter: Meter, work: Fit, out: Path) -> Callable[[float, float], None]:
    """Moves the bar, says the PSNR of recent rays, and saves now and then."""
    from epigraf.training.fit import decibels

    done, recent, saved = 0.0, 0.0, time.monotonic()

    def watch(share: float, error: float) -> None:
        nonlocal done, recent, saved
        recent = error if recent == 0 else recent + 0.05 * (error - recent)
        meter.describe(f"fit, step {work.steps}, PSNR of rays {decibels(recent):.1f} dB")
        meter.advance(share - done)
        done = share
        if time.monotonic() - saved > SAVE_SECONDS:
            work.save(out)
            saved = time.monotonic()

    return watch


def _scores(work: Fit, fitted: PosedViews, tested: PosedViews) -> str:
    """How well both kinds of views are matched."""
    some = fitted.part(range(0, len(fitted), -(-len(fitted) // 8)))
    seen = work.psnr(some)
    said = [f"PSNR {sum(seen) / len(seen):.2f} dB on fitted views"]
    if len(tested):
        unseen = work.psnr(tested)
        said.append(f"{sum(unseen) / len(unseen):.2f} dB on those held out")
    return ", ".join(said)


def split_views(views: PosedViews, every: int) -> tuple[PosedViews, PosedViews]:
    """Views to fit, and every `every`-th (0: none) to test with.

    Raises:
        EpigrafError: none is left to fit.
    """
    tested = [i for i in range(len(views)) if every and i % every == every // 2]
    fitted = [i for i in range(len(views)) if i not in set(tested)]
    if not fitted:
        raise EpigrafError(f"--held-out {every}: leaves none of the {len(views)} views to fit")
    return views.part(fitted), views.part(tested)


def parse_colour(text: str) -> tuple[float, float, float]:
    """Read white, black or `128,64,0` as red, green and blue in [0, 1].

    Raises:
        EpigrafError: anything else.
    """
    named = {"white": "255,255,255", "black": "0,0,0"}
    match = re.fullmatch(r"(\d{1,3}),(\d{1,3}),(\d{1,3})", named.get(text.strip(), text.strip()))
    if match is None or max(values := [int(x) for x in match.groups()]) > 255:
        raise EpigrafError(f"--background: cannot read {text!r}; write white, black or R,G,B")
    red, green, blue = (x / 255 for x in values)
    return red, green, blue
