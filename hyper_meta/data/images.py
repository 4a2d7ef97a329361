"""Images as files are: encoded bytes, decoded when they are needed."""

from __future__ import annotations

import io

from PIL import Image

from hyper_meta.core.images import to_rgb


class CorruptImage(Exception):
    """An image that cannot be decoded. Its text says which and why."""


def decode(name: str, content: bytes) -> Image.Image:
    """The RGB image that a file's bytes mean, of any format and mode that Pillow opens.

    Raises CorruptImage with the image's name where they are empty, truncated, no image, or of a
    mode that `to_rgb` refuses.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return to_rgb(image)
    except Image.UnidentifiedImageError:
        size = f"{len(content)} bytes"
        raise CorruptImage(f"{name} is no image ({size})") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise errors of many kinds on damaged content
        told = str(error) or type(error).__name__
        raise CorruptImage(f"{name} cannot be decoded: {told}") from error
