"""Thumbnails of image examples, by the hash of the example: what a report of hashes alone cannot show."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from certify.errors import InputError
from certify.examples import Example
from certify.results import InputSpace

LARGEST = 64  # pixels on a side; a smaller image stays as it is
CHANNELS = (1, 3)


def encode_thumbnails(examples: Iterable[Example], space: InputSpace, hashes: frozenset[str]) -> dict[str, str]:
    """Return a PNG in base64 for each example whose hash is asked for.

    Args:
        examples: Read from the data, so that each hash is that of what is drawn.
        space: The input space of the report's model: its shape, and the range that goes from black to white.
        hashes: Which examples are shown.

    Raises:
        InputError: If the inputs are no images [1 or 3, height, width], or have no range to draw them by.

    Example:
        >>> dot = Example(0, "dot", 0, np.zeros((1, 2, 2), np.uint8))
        >>> encode_thumbnails([dot], InputSpace((1, 2, 2)), frozenset({dot.hash}))[dot.hash][:8]
        'iVBORw0K'
    """
    if len(space.shape) != 3 or space.shape[0] not in CHANNELS:
        raise InputError(f"expected images of 1 or 3 channels for thumbnails, got inputs of shape {space.shape}")
    return {example.hash: _encode(_pixels(example, space)) for example in examples if example.hash in hashes}


def _pixels(example: Example, space: InputSpace) -> NDArray[np.uint8]:
    """Return 8-bit pixels [height, width, channels]; other values are spread over the range of the space."""
    stored = np.moveaxis(example.stored, 0, -1)
    if stored.dtype == np.uint8:
        return stored.astype(np.uint8)
    if space.range is None:
        raise InputError("expected data that are 8-bit or have a declared range for thumbnails, got neither")
    low, high = space.range
    pixels: NDArray[np.uint8] = np.clip(np.rint((stored - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)
    return pixels


def _encode(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((LARGEST, LARGEST))
    stream = BytesIO()
    image.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")
