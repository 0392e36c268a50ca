"""A folder of class folders of images: ``data/cat/001.png`` is an example of the class ``cat``.

Each folder must bear the name of a class of the model; a class without a folder is fine, a folder without a class is an
error, and so is anything else that is not hidden. *The order takes the classes in turn*: the first image of each class
in the order of the model's classes, then the second of each, and so on; within a class, file names are sorted by code
point. So a limit of N gives every class nearly the same share, on every machine and in every locale. The id is the
path below the folder, with forward slashes.

Pixels are taken as stored: only conversions that lose nothing are made (palette and 1-bit images, gray for colour
models, colour images whose channels agree for gray models), and an orientation tag is not applied.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from certify.errors import InputError
from certify.files import read_file_once
from certify.loading.source import Array, Request, Row, Source, some

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 2**28
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}

# What Pillow's decoders raise for damaged files, and Pillow's warnings, which are errors here.
_IMAGE_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, OverflowError),
    *(struct.error, zlib.error, MemoryError, Warning, Image.DecompressionBombError),
)


def read_image_folder(path: Path, request: Request) -> Source:
    """Return the images of a folder of class folders, the classes in turn.

    Raises:
        InputError: If a folder bears no class name, anything but folders of images is found, or there is no image.
    """
    if len(request.input.shape) != 3 or request.input.shape[0] not in (1, 3):
        raise InputError(
            f"{path}: expected a model of images [1 or 3, H, W] for a folder of images, got {list(request.input.shape)}"
        )
    found = _class_folders(path, request.classes)
    columns = [
        [(label, file) for file in _images(path / name)] for label, name in enumerate(request.classes) if name in found
    ]
    order = [item for turn in zip_longest(*columns) for item in turn if item is not None]
    if not order:
        raise InputError(f"{path}: expected images in folders named {some(request.classes)}, got none")

    def read(position: int) -> Row:
        label, file = order[position]
        return Row(f"{request.classes[label]}/{file.name}", label, read_image(file, request.input.shape))

    return Source(len(order), read, "images", "classes in turn")


def _class_folders(path: Path, classes: tuple[str, ...]) -> set[str]:
    names = set()
    for entry in _entries(path):
        if not entry.is_dir():
            raise InputError(f"expected folders named after the classes in {str(path)!r}, got the file {entry.name!r}")
        if entry.name not in classes:
            raise InputError(
                f"{path}: expected folders named after the model's classes {some(classes)}, got {entry.name!r};"
                " rename the folder, or save the model with these classes"
            )
        names.add(entry.name)
    return names


def _images(folder: Path) -> list[Path]:
    for entry in (entries := list(_entries(folder))):
        if Path(entry.name).suffix.lower() not in SUFFIXES or entry.is_dir():
            raise InputError(f"expected images ({', '.join(sorted(SUFFIXES))}) only, got {entry.path!r}; move it away")
    return [folder / name for name in sorted(entry.name for entry in entries)]


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.isprintable():
                    raise InputError(f"expected printable file names in {str(folder)!r}, got {entry.name!r:.300}")
                if not entry.name.startswith("."):
                    yield entry
    except OSError as error:
        raise InputError(f"cannot read the folder {str(folder)!r}: {error.strerror}") from error


def read_image(path: Path, shape: tuple[int, ...]) -> Array:
    """Return the pixels of an image file as uint8 of the model's input shape ``[C, H, W]``.

    Raises:
        InputError: If the file is no complete single image of that size in 8 bits, or has transparency, or cannot be
            brought to that many channels without loss.
    """
    data = read_file_once(path, limit=MAX_FILE_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_image(image, shape, str(path))
                pixels = np.array(image.convert(MODES[image.mode]))
    except UnidentifiedImageError as error:
        raise InputError(f"expected a readable image ({', '.join(FORMATS)}), got another file {str(path)!r}") from error
    except _IMAGE_ERRORS as error:
        raise InputError(f"expected a readable image ({', '.join(FORMATS)}), got {str(path)!r}: {error}") from error
    return _channels(pixels, shape[0], str(path))


def _check_image(image: Image.Image, shape: tuple[int, ...], name: str) -> None:
    """Refuse an image by its header, before its pixels are decoded."""
    width, height = image.size
    if (height, width) != shape[1:] or width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: expected an image of {shape[2]} x {shape[1]} pixels, got {width} x {height}; resize it"
        )
    if getattr(image, "n_frames", 1) != 1:
        raise InputError(f"{name}: expected a single image, got an animation")
    if image.mode not in MODES or "transparency" in image.info:
        raise InputError(f"{name}: expected 8-bit gray or RGB without transparency, got mode {image.mode}; convert it")
    if not isinstance(image, ImageFile.ImageFile) or any("16" in _raw_mode(tile) for tile in image.tile):
        raise InputError(f"{name}: expected 8 bits per channel, got 16; convert it")


def _raw_mode(tile: Sequence[object]) -> str:
    """Return how the file packs its pixels, which Pillow hides behind an 8-bit mode (``RGB;16B``)."""
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _channels(pixels: Array, channels: int, name: str) -> Array:
    if pixels.ndim == 2:
        return np.ascontiguousarray(np.broadcast_to(pixels, (channels, *pixels.shape)))
    if channels == 3:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if bool((pixels == pixels[..., :1]).all()):
        return np.ascontiguousarray(pixels[None, ..., 0])
    raise InputError(f"{name}: expected a gray image for a model of one channel, got colours; convert it")
