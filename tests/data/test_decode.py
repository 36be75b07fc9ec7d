"""One file at a time: modes, transparency, sizes. Expected pixels are worked by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from epigraf.data.decode import Background, Fit, Pixels, decode_image
from epigraf.errors import DataError
from tests.data.conftest import png


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def flat(mode: str, colour: object, side: int = 4) -> Image.Image:
    return Image.new(mode, (side, side), colour)  # pyright: ignore[reportArgumentType]


HALF_RED = (255, 0, 0, 128)  # over white: green = 255 (1 - 128/255) = 127


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(flat("RGB", (10, 20, 30))), (10, 20, 30)),
        (encode(flat("L", 77)), (77, 77, 77)),
        (encode(flat("1", 1)), (255, 255, 255)),
        (encode(flat("RGBA", (10, 20, 30, 255))), (10, 20, 30)),
        (encode(flat("RGBA", (10, 20, 30, 0))), (255, 255, 255)),
        (encode(flat("RGBA", HALF_RED)), (255, 127, 127)),
        (encode(flat("LA", (0, 0))), (255, 255, 255)),
        (encode(flat("RGB", (5, 6, 7)).convert("P", palette=Image.Palette.ADAPTIVE)), (5, 6, 7)),
        (encode(flat("CMYK", (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
        (encode(flat("I;16", 257 * 99)), (99, 99, 99)),
        (encode(flat("I;16", 65535)), (255, 255, 255)),
        (encode(flat("I", 257 * 5), "TIFF"), (5, 5, 5)),
        (encode(flat("F", 0.5), "TIFF"), (128, 128, 128)),
        (encode(flat("RGB", (9, 9, 9)), "BMP"), (9, 9, 9)),
        (encode(flat("RGB", (8, 9, 7)), "WEBP", lossless=True), (8, 9, 7)),
    ],
)
def test_every_mode_becomes_rgb(data: bytes, expected: tuple[int, int, int]) -> None:
    pixels = decode_image(data, None)
    assert pixels.shape == (3, 4, 4)
    assert pixels.dtype == np.uint8
    assert (pixels == np.array(expected)[:, None, None]).all()


def test_transparent_palette_entry_shows_the_background() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    data = encode(image, transparency=1)
    assert (decode_image(data, None) == 255).all()
    assert (decode_image(data, None, Pixels(Background.BLACK)) == 0).all()


def test_channels_rows_and_columns_are_in_order() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert (decode_image(encode(Image.fromarray(pixels)), None) == pixels.transpose(2, 0, 1)).all()


def test_whole_factors_are_plain_averages() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mean = pixels.reshape(4, 2, 4, 2, 3).astype(float).mean(axis=(1, 3))
    shrunk = decode_image(encode(Image.fromarray(pixels)), 4).transpose(1, 2, 0)
    assert np.abs(shrunk - mean).max() <= 0.5


def test_other_factors_do_not_alias() -> None:
    """A pixel checkerboard is above the Nyquist limit of the result: it must become grey."""
    board = np.indices((30, 30)).sum(axis=0) % 2 * 255
    shrunk = decode_image(encode(Image.fromarray(board.astype(np.uint8))), 20)
    assert np.abs(shrunk[:, 3:-3, 3:-3].astype(int) - 127).max() < 60


def test_orientation_of_photographs_is_honoured() -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[0] = 255  # the first row of the file
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn clockwise by 90 degrees": the first row becomes the last column
    decoded = decode_image(encode(Image.fromarray(pixels), "PNG", exif=exif), None)
    assert (decoded[:, :, 3] == 255).all()
    assert (decoded[:, :, :3] == 0).all()


def test_first_frame_of_an_animation() -> None:
    frames = [flat("RGB", (255, 0, 0)), flat("RGB", (0, 0, 255))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, None)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "resolution", "pixels", "message"),
    [
        (png(size=(8, 6)), None, Pixels(), "is 8x6: images must be square"),
        (png(8), 4, Pixels(fit=Fit.EXACT), "is 8x8, expected 4x4"),
        (png(8), 16, Pixels(), "is 8x8, smaller than the requested 16"),
        (png(32)[:300], None, Pixels(), "corrupt or unreadable"),
        (b"", None, Pixels(), "corrupt or unreadable"),
        (b"not an image", None, Pixels(), "corrupt or unreadable"),
        (encode(flat("F", 7.0), "TIFF"), None, Pixels(), "finite and in 0..1"),
        (encode(flat("I", 70000), "TIFF"), None, Pixels(), "expected 16 bit"),
    ],
)
def test_refusals_say_why(
    data: bytes, resolution: int | None, pixels: Pixels, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        decode_image(data, resolution, pixels)


def test_enlarging_is_possible_when_asked_for() -> None:
    assert decode_image(png(8), 16, Pixels(fit=Fit.RESIZE)).shape == (3, 16, 16)


def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.raises(DataError, match="DecompressionBomb"):
        decode_image(png(8), None)
