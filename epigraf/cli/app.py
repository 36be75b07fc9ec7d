"""The command `epigraf`: one thin file per command; errors become one line here.

Exit codes: 0 done; 1 something the user can act on, in one line on stderr; 2 wrong usage;
130 stopped by Ctrl-C; 143 stopped by SIGTERM. `EPIGRAF_DEBUG=1` shows the traceback instead of the
line.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from epigraf import __version__
from epigraf.allocator import keep_freed_memory
from epigraf.cli import (
    bench,
    configs,
    data,
    demo,
    doctor,
    export,
    fit,
    history,
    imports,
    info,
    mesh,
    metrics,
    plan,
    sample,
    train,
    video,
)
from epigraf.errors import EpigrafError

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
_DISK = {
    errno.ENOSPC: "no space left on the device; free some or choose another --out",
    errno.EDQUOT: "disk quota exceeded; free some or choose another --out",
    errno.EROFS: "the file system is read-only; choose another --out",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "this is a folder, not a file",
    errno.EEXIST: "exists already",
}


def describe_error(error: BaseException) -> str:
    """What went wrong, in one line without a traceback.

    Args:
        error: anything that a command raised.
    """
    if isinstance(error, EpigrafError):
        text = str(error)
    elif isinstance(error, OSError):
        what = _DISK.get(error.errno or 0, error.strerror or str(error))
        text = f"{error.filename}: {what}" if error.filename else what
    elif isinstance(error, MemoryError) or any(s in str(error) for s in _OUT_OF_MEMORY):
        text = "out of memory; lower the resolution, the grid or training.batch_gpu"
    else:
        text = f"{type(error).__name__}: {error} (EPIGRAF_DEBUG=1 shows where)"
    return " ".join(text.split())


class Commands(TyperGroup):
    """The group of all commands; turns whatever they raise into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None
        except SystemExit:  # only `_terminated` raises it in here
            typer.echo("terminated", err=True)
            raise
        except BrokenPipeError:
            raise
        except Exception as error:
            if _is_usage(error) or os.environ.get("EPIGRAF_DEBUG", "0") not in ("", "0"):
                raise
            typer.echo(f"error: {speaker()}{describe_error(error)}", err=True)
            raise typer.Exit(1) from None


def speaker() -> str:
    """`rank 1 of 4: ` in one of several processes that train together, nothing in a single one."""
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return f"rank {rank} of {size}: " if rank and size not in ("", "1") else ""


def _is_usage(error: Exception) -> bool:
    """Exceptions that Typer itself turns into a message and an exit code."""
    return isinstance(error, (typer.Exit, typer.Abort)) or hasattr(error, "exit_code")


def _dashes(token: str) -> str:
    """`--ray_steps` and `front_circle` are as good as `--ray-steps` and `front-circle`."""
    return token.replace("_", "-")


app = typer.Typer(
    name="epigraf",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _dashes},
    help="Generative 3D scenes from single pictures: train, look from all sides, take a mesh home.",
    epilog="[bold]Start here[/bold]\n\n  epigraf demo\n  epigraf data synth shapes.zip\n"
    "  epigraf train tiny --data shapes.zip --out runs --minutes 20\n"
    "  epigraf video runs/00000-tiny-shapes --seeds 0-15 --grid 4x4 --out turn.mp4",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"epigraf {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_show_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options of the command as a whole; the help text is the group's."""


app.command()(plan.plan)
app.command()(train.train)
app.command()(sample.sample)
app.command()(video.video)
app.command()(mesh.mesh)
app.command()(fit.fit)
app.add_typer(data.app, name="data")
app.command("import")(imports.import_)
app.command()(export.export)
app.command()(history.history)
app.command()(metrics.metrics)
app.command()(demo.demo)
app.add_typer(bench.app, name="bench")
app.command()(info.info)
app.command()(doctor.doctor)
app.command()(configs.configs)


def _terminated(number: int, _: FrameType | None) -> None:
    """Leave as after an error, so that half-written files are removed."""
    raise SystemExit(128 + number)


def main() -> None:
    """The entry point of the console script `epigraf`."""
    if bench.DEFAULT_MALLOC not in sys.argv:
        keep_freed_memory()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(prog_name="epigraf")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an exception has nowhere to go any more
