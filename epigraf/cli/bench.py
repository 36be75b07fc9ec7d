"""`epigraf bench`: how fast everything is, whether that changed, and the figures of the docs."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from epigraf.cli.kernels import kernels
from epigraf.errors import EpigrafError

if TYPE_CHECKING:
    from epigraf.benchmarks.runner import Settings

DEFAULT_MALLOC = "--default-malloc"
RESULTS = Path("bench-results")
WIDTH = 150  # of tables that go to a file

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Measure ops, renderer, training steps, meshes, and how they scale; compare, report.",
    epilog="[bold]Examples[/bold]\n\n  epigraf bench render\n"
    "  epigraf bench step --config plants64\n"
    "  epigraf bench compare before.json after.json\n"
    "  epigraf bench all --out bench-results          (everything, with tables and plots)",
)

Out = Annotated[Path, typer.Option("--out", "-o", help="The folder for the JSON file.")]
Rounds = Annotated[
    int | None,
    typer.Option(
        "--rounds", min=1, help="Of all implementations in turn. [dim]Default: 5-10[/dim]"
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="[dim]Default: all (quick: 1)[/dim]"),
]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Only = Annotated[
    str, typer.Option("--only", help="Only cases with this, or one of a,b,c, in their name.")
]
OnlyBackend = Annotated[
    str,
    typer.Option("--only", help="Only these: fused, ops, reference, official, or a,b."),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Tiny sizes, seconds: does it run? Not: how fast is it?")
]
Malloc = Annotated[
    bool,
    typer.Option(
        DEFAULT_MALLOC,
        help="Leave the allocator as Python has it; epigraf's programs keep freed memory.",
    ),
]
ConfigName = Annotated[str, typer.Option("--config", help="The preset whose step is measured.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Change one of its keys: a.b=c. Repeatable.")
]
Readme = Annotated[
    Path | None,
    typer.Option("--readme", help="Fill this file's block between bench:begin and bench:end."),
]
Plots = Annotated[
    Path | None, typer.Option("--plots", help="Where pictures and bench.md go. Default: FOLDER.")
]


def _suite(name: str, about: str, *examples: str) -> None:
    """The command of a suite."""

    def command(
        out: Out = RESULTS,
        rounds: Rounds = None,
        threads: Threads = None,
        device: Device = "cpu",
        only: Only = "",
        quick: Quick = False,
        default_malloc: Malloc = False,
    ) -> None:
        run(name, make_settings(rounds, threads, device, only, quick, default_malloc), out)

    shown = "\n".join(f"  epigraf bench {name} {words}".rstrip() for words in ("", *examples))
    app.command(name, help=f"{about}\n\n[bold]Examples[/bold]\n\n{shown}")(command)


_suite("ops", "Measure every op beside its plain-torch reference.", "--only triplane --threads 1")
_suite(
    "render", "Measure the renderer: fused, ops, plain torch, and the official formulation.",
    "--only backward --rounds 20",
)  # fmt: skip


@app.command()
def step(
    config: ConfigName = "plants64",
    override: Overrides = None,
    out: Out = RESULTS,
    rounds: Rounds = None,
    threads: Threads = None,
    device: Device = "cpu",
    only: OnlyBackend = "",
    quick: Quick = False,
    default_malloc: Malloc = False,
) -> None:
    """Measure a training step by phase, beside the official formulation in plain torch.

    [bold]Examples[/bold]

      epigraf bench step
      epigraf bench step --only fused,official
      epigraf bench step --config plants256 --set training.batch_size=4 --rounds 3
    """
    settings = make_settings(rounds, threads, device, only, quick, default_malloc)
    run("step", replace(settings, preset=config, overrides=tuple(override or ())), out)


_suite(
    "occupancy", "Measure rendering through occupancy grids, and a turntable of the shipped model.",
    "--only 120 --rounds 1",
)  # fmt: skip
_suite(
    "mesh", "Measure the surface of the shipped model, by blocks and from a dense grid.",
    "--only 256 --rounds 1",
)  # fmt: skip
_suite(
    "scaling", "Measure the cost of a rendering against rays, samples, planes, batch and threads.",
    "--only threads",
)  # fmt: skip


@app.command("all")
def everything(
    out: Out = RESULTS,
    plots: Plots = None,
    readme: Readme = None,
    rounds: Rounds = None,
    threads: Threads = None,
    device: Device = "cpu",
    quick: Quick = False,
    default_malloc: Malloc = False,
) -> None:
    """Run every suite, then report: all figures of the docs in one command.

    [bold]Examples[/bold]

      epigraf bench all
      epigraf bench all --out benchmarks/results --plots docs/results --readme README.md
    """
    from epigraf.benchmarks.suites import SUITES

    settings = make_settings(rounds, threads, device, "", quick, default_malloc)
    for name in SUITES:
        run(name, settings, out)
    if not quick:
        write_report(out, plots, readme)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="Before.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="After.")],
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="Changes below this share never count.")
    ] = 0.05,
    fail: Annotated[
        bool, typer.Option("--fail-on-slower/--no-fail", help="Exit code 1 if a row got slower.")
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Compare other machines, threads, configurations too.")
    ] = False,
) -> None:
    """Say row by row what got faster or slower, by more than the rounds scatter.

    Opponents and the machine itself are shown, but only rows of ours decide the exit code.

    [bold]Examples[/bold]

      epigraf bench compare before.json after.json
      epigraf bench compare before.json after.json --tolerance 0.1 --no-fail
    """
    from rich.console import Console

    from epigraf.benchmarks.compare import compare as compare_results
    from epigraf.benchmarks.compare import slower
    from epigraf.benchmarks.result import read_result
    from epigraf.benchmarks.table import print_changes

    changes = compare_results(read_result(a), read_result(b), tolerance, force)
    print_changes(changes, Console(width=None if sys.stdout.isatty() else WIDTH))
    worse = slower(changes)
    typer.echo(f"{len(worse)} slower" if worse else "nothing got slower")
    if worse and fail:
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where results are.")
    ] = RESULTS,
    plots: Plots = None,
    readme: Readme = None,
) -> None:
    """Draw the newest results of the machine measured last, and write their tables.

    [bold]Examples[/bold]

      epigraf bench report
      epigraf bench report benchmarks/results --plots docs/results --readme README.md
    """
    write_report(folder, plots, readme)


app.command()(kernels)


def make_settings(
    rounds: int | None,
    threads: int | None,
    device: str,
    only: str,
    quick: bool,
    default_malloc: bool,
) -> Settings:
    """What the options say; --quick takes three rounds.

    Raises:
        EpigrafError: there is no such device.
    """
    import torch

    from epigraf.benchmarks.runner import Settings

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EpigrafError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return Settings(
        threads=threads or (1 if quick else os.cpu_count() or 1),
        device=device,
        rounds=3 if quick and rounds is None else rounds,
        only=only,
        quick=quick,
        default_malloc=default_malloc,
    )


def run(suite: str, settings: Settings, out: Path) -> None:
    """Measure a suite, say where the file is, print its table; of what was done if stopped."""
    from rich.console import Console

    from epigraf.benchmarks.result import new_result, result_path
    from epigraf.benchmarks.suites import fill
    from epigraf.benchmarks.table import print_result

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    result = new_result(suite, settings)
    path = result_path(result, out)
    try:
        with console.status(f"bench {suite}") as status:
            fill(result, path, settings, status.update)
    finally:
        if result.rows:
            print_result(result, console)
        if path.exists():
            typer.echo(f"wrote {path}")


def write_report(folder: Path, plots: Path | None, readme: Path | None) -> None:
    """Pictures and tables of a folder of results, and the block of a README."""
    from epigraf.benchmarks.report import fill_block, write_pictures
    from epigraf.benchmarks.result import newest_results

    results = newest_results(folder)
    for path in write_pictures(results, plots or folder):
        typer.echo(f"wrote {path}")
    if readme is not None:
        fill_block(readme, results)
        typer.echo(f"filled {readme}")
