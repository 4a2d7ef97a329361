"""Pictures of every mode that Pillow opens, as the RGB image that they mean."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

# Modes of 16 bits a pixel; Pillow's own conversion clips them at 255.
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
# Modes whose brightest value is not known.
WITHOUT_WHITE = {"I": "32-bit", "F": "floating-point"}


def to_rgb(image: Image.Image) -> Image.Image:
    """The image upright as its EXIF data say, opaque on white, in mode RGB; the first of several
    frames.

    Raises ValueError, its text for a user, for one of 32 bits or floats, whose white is not known,
    and of a mode that Pillow does not convert.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode in WITHOUT_WHITE:
        raise ValueError(
            f"it has {WITHOUT_WHITE[upright.mode]} grey levels, of which it is not known what is "
            "white: convert it to 8 or 16 bits"
        )
    if upright.mode in SIXTEEN_BITS:
        levels = np.asarray(upright).astype(np.uint16)
        upright = Image.fromarray(np.round(levels / 257).astype(np.uint8))
    if upright.has_transparency_data:
        pixels = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")
    return upright.convert("RGB")
