"""Outputs as numbers on disk: NPZ, OpenEXR, 16-bit PNG.

V views, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from epigraf.cli.arguments import NumbersFormat
from epigraf.cli.media import atomic
from epigraf.cli.shades import Range
from epigraf.errors import EpigrafError
from epigraf.models.pictures import Output, Picture

_PNG16 = (Output.DEPTH, Output.OPACITY)
_CHANNELS = {
    Output.COLOR: "RGB",
    Output.OPACITY: "A",
    Output.DEPTH: "Z",
    Output.RAW_DEPTH: ("raw_depth.Z",),
    Output.NORMAL: ("normal.X", "normal.Y", "normal.Z"),
    Output.DENSITY: ("density.V",),
    Output.FOREGROUND: tuple(f"foreground.{c}" for c in "RGBA"),
    Output.BACKGROUND: tuple(f"background.{c}" for c in "RGB"),
}


def check_numbers(kind: NumbersFormat | None, outputs: tuple[Output, ...]) -> None:
    """Raise EpigrafError where a format cannot be written: before the work, not after it."""
    if kind is NumbersFormat.EXR:
        _openexr()
    if kind is NumbersFormat.PNG16 and not set(_PNG16) & set(outputs):
        raise EpigrafError("--numbers png16 holds depth and opacity; add one to --outputs")


def _openexr() -> Any:
    try:
        import OpenEXR
    except ImportError:
        raise EpigrafError(
            "--numbers exr: needs the package OpenEXR; pip install 'epigraf[exr]', or take npz"
        ) from None
    return OpenEXR


def save_numbers(
    views: Sequence[Picture],
    outputs: tuple[Output, ...],
    kind: NumbersFormat,
    stem: Path,
    limits: Sequence[Range],
) -> None:
    """Write the outputs of all views of one object; `limits` has the range of each view.

    NPZ: STEM.npz, arrays [V, H, W, C] float32 by output. EXR: STEM-viewNN.exr, one layered float32
    picture a view, colours in linear light. PNG16: STEM-viewNN-depth16.png (0: nothing there, else
    1..65535 from near to far, whose world units are in the file's texts) and -opacity16.png.
    """
    if kind is NumbersFormat.NPZ:
        arrays: dict[str, Any] = {
            o.value: np.stack([v[o].permute(1, 2, 0).numpy() for v in views]) for o in outputs
        }
        with atomic(stem.with_name(stem.name + ".npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        return
    for i, view in enumerate(views):
        name = stem.with_name(f"{stem.name}-view{i:02d}")
        if kind is NumbersFormat.EXR:
            _save_exr(view, outputs, name.with_name(name.name + ".exr"))
        else:
            for output in set(_PNG16) & set(outputs):
                target = name.with_name(f"{name.name}-{output.value}16.png")
                _save_png16(view[output][0].numpy(), output, target, limits[i])


def _save_exr(view: Picture, outputs: tuple[Output, ...], path: Path) -> None:
    exr, channels = _openexr(), {}
    for output in outputs:
        values = view[output].numpy()
        if output in (Output.COLOR, Output.FOREGROUND, Output.BACKGROUND):
            values = np.concatenate([linear_light(values[:3]), values[3:]])
        named = zip(_CHANNELS[output], values, strict=True)
        channels |= {name: np.ascontiguousarray(value) for name, value in named}
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with atomic(path) as temporary, exr.File(header, channels) as file:
        file.write(str(temporary))


def linear_light(colors: np.ndarray) -> np.ndarray:
    """Colours in -1..1, as displays want them, in linear light 0..1 (IEC 61966-2-1, sRGB)."""
    x = np.clip((colors + 1) / 2, 0, 1)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _save_png16(values: np.ndarray, output: Output, path: Path, limits: Range) -> None:
    texts = PngInfo()
    if output is Output.DEPTH:
        share = np.clip((values - limits.near) / (limits.far - limits.near), 0, 1)
        whole = np.where(values > 0, 1 + np.round(share * 65534), 0)
        texts.add_text("near", f"{limits.near:.9g}")
        texts.add_text("far", f"{limits.far:.9g}")
    else:
        whole = np.round(np.clip(values, 0, 1) * 65535)
    with atomic(path) as temporary:
        Image.fromarray(whole.astype(np.uint16)).save(temporary, pnginfo=texts)
