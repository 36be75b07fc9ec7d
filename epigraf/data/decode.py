"""One image file -> uint8 [3, R, R]: any Pillow format and mode, transparency, resizing.

Shapes: R side of the square image in pixels.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from enum import Enum

import numpy as np
from PIL import Image, ImageOps

from epigraf.errors import DataError

_WIDE = (
    "I",
    "I;16",
    "I;16L",
    "I;16B",
    "I;16N",
)  # one channel, 16 bit in files that Pillow reads


class Background(Enum):
    """What shows through transparent pixels."""

    WHITE = 255
    BLACK = 0


class Fit(Enum):
    """What to do with an image whose size is not the requested one."""

    EXACT = "exact"  # refuse it
    SHRINK = "shrink"  # shrink larger ones with antialiasing, refuse to enlarge (the default)
    RESIZE = "resize"  # shrink or enlarge


@dataclass(frozen=True)
class Pixels:
    """How files become pixels.

    Attributes:
        background: colour under transparent pixels (RGBA, LA, palettes with transparency).
        fit: policy for sizes that differ from the requested resolution.
        cache_bytes: keep all decoded images in memory if they need no more than this.
    """

    background: Background = Background.WHITE
    fit: Fit = Fit.SHRINK
    cache_bytes: int = 2 << 30


DEFAULT_PIXELS = Pixels()


def decode_image(
    data: bytes, resolution: int | None, pixels: Pixels = DEFAULT_PIXELS
) -> np.ndarray:
    """Decode a square image file.

    Args:
        data: contents of a file in any format that Pillow reads (first frame of animations).
        resolution: wanted side in pixels; None keeps the file's own.
        pixels: transparency and size policy.

    Returns:
        uint8 [3, R, R], RGB.

    Raises:
        DataError: corrupt, not square, or a size that `pixels.fit` refuses.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            image.load()
    except (
        Exception,
        Image.DecompressionBombWarning,
    ) as error:  # Pillow's parsers raise anything
        raise DataError(f"corrupt or unreadable image ({_reason(error)})") from error
    image = _to_rgb(ImageOps.exif_transpose(image), pixels.background)
    _check_size(image.size, resolution, pixels.fit)
    if resolution is not None and image.width != resolution:
        image = _resize(image, resolution)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def _reason(error: BaseException) -> str:
    text = str(error).split("<_io")[0].strip() or "no data"
    return f"{type(error).__name__}: {text}"


def _check_size(size: tuple[int, int], resolution: int | None, fit: Fit) -> None:
    width, height = size
    if width != height:
        raise DataError(f"is {width}x{height}: images must be square, crop it")
    if resolution is None or width == resolution:
        return
    if fit is Fit.EXACT:
        raise DataError(f"is {width}x{height}, expected {resolution}x{resolution}")
    if fit is Fit.SHRINK and width < resolution:
        raise DataError(
            f"is {width}x{height}, smaller than the requested {resolution}: "
            f"lower dataset.resolution or enlarge it yourself"
        )


def _resize(image: Image.Image, resolution: int) -> Image.Image:
    """Box average for whole factors (exact), Lanczos with antialiasing otherwise."""
    if image.width % resolution == 0:
        return image.reduce(image.width // resolution)
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS)


def _to_rgb(image: Image.Image, background: Background) -> Image.Image:
    """Any mode -> RGB; 16-bit grey is scaled, transparency is composited."""
    if image.mode in _WIDE:
        return _from_wide(np.asarray(image)).convert("RGB")
    if image.mode == "F":
        return _from_float(np.asarray(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "La", "PA", "RGBa") or "transparency" in image.info:
        rgba = _straight_alpha(image).convert("RGBA")
        under = Image.new("RGBA", image.size, (background.value,) * 3 + (255,))
        return Image.alpha_composite(under, rgba).convert("RGB")
    return image.convert("RGB")


def _straight_alpha(image: Image.Image) -> Image.Image:
    """Pillow converts premultiplied modes only to their straight partner."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))


def _from_wide(values: np.ndarray) -> Image.Image:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DataError(f"integer pixels in {low}..{high}: expected 16 bit, 0..65535")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _from_float(values: np.ndarray) -> Image.Image:
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise DataError("floating-point pixels must be finite and in 0..1")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))
