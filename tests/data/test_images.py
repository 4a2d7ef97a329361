"""Pictures of every mode and orientation mean what a viewer shows of them."""

import io

import numpy as np
import pytest
from PIL import Image

from hyper_meta.core.images import to_rgb
from hyper_meta.data.images import CorruptImage, decode

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
COLOURED = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
# What a viewer does with what is stored, by the tag of EXIF (its table of orientations).
SHOWN = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def stored(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_an_image_is_upright(orientation, form):
    image = Image.fromarray(COLOURED)
    exif = image.getexif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    seen = decode("a", stored(image, form, exif=exif, **options))
    np.testing.assert_array_equal(np.asarray(seen), SHOWN[orientation](COLOURED))


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *[("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGB", "BMP"), ("RGBA", "WEBP")],
        *[("RGBX", "TIFF"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")],
    ],
)
def test_grey_is_grey_in_every_mode(mode, form):
    options = {"lossless": True} if form == "WEBP" else {}
    grey = Image.fromarray(GREY)  # of 256 colours, a palette of all levels is made of it
    grey = grey if mode == "P" else grey.convert("RGB")
    content = stored(grey.convert(mode), form, **options)
    seen = decode("a", content)
    assert seen.mode == "RGB"
    np.testing.assert_allclose(np.asarray(seen), np.dstack([GREY] * 3), atol=1)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_levels(form):
    levels = GREY.astype(np.uint16) * 257
    seen = np.asarray(decode("a", stored(Image.fromarray(levels), form)))
    np.testing.assert_array_equal(seen, np.dstack([GREY] * 3))
    near = stored(Image.fromarray(levels + 100), form)
    np.testing.assert_array_equal(np.asarray(decode("a", near)), seen)


def test_black_and_white():
    seen = np.asarray(decode("a", stored(Image.fromarray(GREY > 100), "PNG")))
    np.testing.assert_array_equal(seen, np.dstack([np.where(GREY > 100, 255, 0)] * 3))


@pytest.mark.parametrize(("mode", "pixel"), [("RGBA", (200, 0, 0, 51)), ("LA", (0, 51))])
def test_what_is_transparent_lies_on_white(mode, pixel):
    content = stored(Image.new(mode, (3, 2), pixel), "PNG")
    colour = np.array(pixel[:3] if mode == "RGBA" else [0] * 3)
    expected = np.broadcast_to(0.2 * colour + 0.8 * 255, (2, 3, 3))
    np.testing.assert_allclose(np.asarray(decode("a", content)), expected, atol=1)


def test_a_palette_with_a_transparent_colour_lies_on_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    seen = decode("a", stored(image, "GIF", transparency=0))
    np.testing.assert_array_equal(np.asarray(seen), [[[255] * 3, [0, 0, 255]]])


@pytest.mark.parametrize(
    ("pixels", "what"), [(np.float32(GREY), "floating-point"), (np.int32(GREY), "32-bit")]
)
def test_levels_without_a_known_white_are_refused(pixels, what):
    image = Image.fromarray(pixels)
    with pytest.raises(CorruptImage, match=f"a cannot be decoded: it has {what} grey levels"):
        decode("a", stored(image, "TIFF"))
    with pytest.raises(ValueError, match="convert it to 8 or 16 bits"):
        to_rgb(image)


def test_whatever_a_reader_of_pillow_raises_is_a_corrupt_image(monkeypatch):
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "png")
    for error in (NotImplementedError("unknown kind"), RuntimeError(), AttributeError("none")):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(CorruptImage, match=f"a cannot be decoded: {str(error) or 'Runtime'}"):
            decode("a", content.getvalue())
