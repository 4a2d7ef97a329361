"""Images as files are: encoded bytes, decoded when they are needed."""

from __future__ import annotations

import io

from PIL import Image


class CorruptImage(Exception):
    """An image that cannot be decoded. Its text says which and why."""


def decode(name: str, content: bytes) -> Image.Image:
    """The RGB image that a file's bytes are: JPEG, PNG, ..., grey, palette or CMYK.

    Raises CorruptImage with the image's name where they are empty, truncated or no image.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except Image.UnidentifiedImageError:
        size = f"{len(content)} bytes"
        raise CorruptImage(f"{name} is no image ({size})") from None
    # What Pillow's readers raise on damaged content.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise CorruptImage(f"{name} cannot be decoded: {error}") from error
