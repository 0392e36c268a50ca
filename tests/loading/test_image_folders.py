"""Folders of images: pixels as stored, classes in turn, and nothing guessed."""

import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from certify.errors import CertifyError, InputError
from certify.loading import image_folder, read_data
from certify.results import InputSpace

COLOUR, GRAY = InputSpace((3, 4, 5), (0.0, 1.0), "pixels"), InputSpace((1, 4, 5), (0.0, 1.0), "pixels")
CLASSES = ("cat", "ant", "bee")
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)


def put(folder, name, pixels=PIXELS, **arguments):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **arguments)
    return path


def read(folder, space=COLOUR, **arguments):
    return read_data(folder, input=space, classes=CLASSES, **arguments)


@pytest.mark.parametrize(("suffix", "arguments"), [("png", {}), ("bmp", {}), ("webp", {"lossless": True})])
def test_lossless_formats_give_the_pixels(tmp_path, suffix, arguments):
    put(tmp_path, f"ant/a.{suffix}", **arguments)
    (example,) = read(tmp_path)
    assert (example.id, example.label, example.stored.dtype) == (f"ant/a.{suffix}", 1, np.uint8)
    assert np.array_equal(example.stored, PIXELS.transpose(2, 0, 1))
    assert example.stored.flags.c_contiguous


def test_jpeg_is_read_as_pillow_decodes_it(tmp_path):
    path = put(tmp_path, "ant/a.JPG", format="JPEG", quality=90)
    expected = np.asarray(Image.open(path))
    assert np.array_equal(read(tmp_path).examples[0].stored, expected.transpose(2, 0, 1))


def test_classes_come_in_turn_and_names_in_code_point_order(tmp_path):
    for name in ("ant/b.png", "ant/B.png", "ant/10.png", "ant/9.png", "cat/z.png", "cat/a.png"):
        put(tmp_path, name)
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "ant" / ".hidden").write_bytes(b"")
    data = read(tmp_path)
    assert [e.id for e in data] == ["cat/a.png", "ant/10.png", "cat/z.png", "ant/9.png", "ant/B.png", "ant/b.png"]
    assert [e.label for e in data] == [0, 1, 0, 1, 1, 1]
    assert data.selection == "all 6"
    part = read(tmp_path, skip=1, limit=2)
    assert [(e.index, e.id) for e in part] == [(1, "ant/10.png"), (2, "cat/z.png")]
    assert part.selection == "images 1-2 of 6 (classes in turn)"


def test_a_limit_decodes_no_more_images_than_it_asks_for(tmp_path, monkeypatch):
    for number in range(9):
        put(tmp_path, f"ant/{number}.png")
    opened = []
    original = image_folder.read_image

    def counted(path, shape):
        opened.append(path.name)
        return original(path, shape)

    monkeypatch.setattr(image_folder, "read_image", counted)
    read(tmp_path, limit=2, skip=3)
    assert opened == ["3.png", "4.png"]


def gray(pixels=PIXELS):
    return np.ascontiguousarray(pixels[..., 0])


LOSSLESS = [
    ("gray for a gray model", Image.fromarray(gray()), GRAY, gray()[None]),
    ("gray for a colour model", Image.fromarray(gray()), COLOUR, np.stack([gray()] * 3)),
    ("1 bit", Image.fromarray(gray() > 127), GRAY, np.where(gray() > 127, 255, 0)[None]),
    ("equal channels for a gray model", Image.fromarray(np.stack([gray()] * 3, 2)), GRAY, gray()[None]),
]


@pytest.mark.parametrize(("image", "space", "expected"), [c[1:] for c in LOSSLESS], ids=[c[0] for c in LOSSLESS])
def test_conversions_lose_nothing(tmp_path, image, space, expected):
    put(tmp_path, "ant/a.png", image)
    assert np.array_equal(read(tmp_path, space).examples[0].stored, expected)


def test_palette_images_become_their_colours(tmp_path):
    image = Image.fromarray(PIXELS).quantize(8)
    put(tmp_path, "ant/a.png", image)
    assert np.array_equal(read(tmp_path).examples[0].stored, np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def deep_png(colour_type, channels):
    """A PNG of 16 bits per channel, which Pillow cannot write for colours."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(5 * channels * 2)) for _ in range(4))
    header = struct.pack(">IIBBBBB", 5, 4, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def animated(path, **arguments):
    frames = [Image.fromarray(np.roll(PIXELS, shift)) for shift in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **arguments)


def write_bytes(data):
    return lambda path: path.write_bytes(data)


def save(image, **arguments):
    return lambda path: image.save(path, **arguments)


REFUSED = [
    ("alpha", "a.png", save(Image.fromarray(PIXELS).convert("RGBA")), "mode RGBA"),
    ("gray alpha", "a.png", save(Image.fromarray(gray()).convert("LA")), "mode LA"),
    ("transparent colour", "a.png", save(Image.fromarray(PIXELS), transparency=(1, 2, 3)), "transparency"),
    ("transparent palette", "a.png", save(Image.fromarray(PIXELS).quantize(8), transparency=0), "transparency"),
    ("16-bit gray", "a.png", save(Image.fromarray(gray().astype(np.uint16))), "mode I;16"),
    ("16-bit colour", "a.png", write_bytes(deep_png(2, 3)), "got 16"),
    ("16-bit colour and alpha", "a.png", write_bytes(deep_png(6, 4)), "mode RGBA"),
    ("four inks", "a.jpg", save(Image.fromarray(PIXELS).convert("CMYK")), "mode CMYK"),
    ("animated png", "a.png", animated, "animation"),
    ("animated webp", "a.webp", lambda path: animated(path, lossless=True), "animation"),
    ("other size", "a.png", save(Image.fromarray(PIXELS[:3])), "expected an image of 5 x 4 pixels, got 5 x 3"),
    ("turned", "a.png", save(Image.fromarray(PIXELS.transpose(1, 0, 2).copy())), "got 4 x 5"),
    ("a format that is not on the list", "a.png", save(Image.fromarray(PIXELS), format="TIFF"), "readable image"),
    ("a program", "a.png", write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n"), "readable image"),
    ("empty", "a.png", write_bytes(b""), "readable image"),
    ("text", "a.png", write_bytes(b"hello"), "readable image"),
]


@pytest.mark.parametrize(("name", "write", "text"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_other_images_are_refused_by_name(tmp_path, name, write, text):
    (tmp_path / "ant").mkdir()
    write(tmp_path / "ant" / name)
    with pytest.raises(InputError, match=text) as caught:
        read(tmp_path)
    assert f"ant/{name}" in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_truncated_images_are_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path = put(tmp_path, f"ant/a.{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 30])
    with pytest.raises(InputError, match=f"ant/a.{suffix}"):
        read(tmp_path)


def test_colours_for_a_gray_model_are_refused(tmp_path):
    put(tmp_path, "ant/a.png")
    with pytest.raises(InputError, match="gray image"):
        read(tmp_path, GRAY)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    side = 20_000
    path = put(tmp_path, "ant/a.png", Image.new("1", (side, side)))
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=r"ant/a\.png"):
        read(tmp_path, InputSpace((1, side, side), (0.0, 1.0)))


def test_sizes_above_64_megapixels_are_refused_even_where_the_model_asks_for_them(tmp_path, monkeypatch):
    put(tmp_path, "ant/a.png")
    monkeypatch.setattr(image_folder, "MAX_PIXELS", 19)
    with pytest.raises(InputError, match=r"ant/a\.png"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["dog/a.png"], "named after the model's classes .*'dog'"),
        (["Ant/a.png"], "got 'Ant'"),
        (["ant/a.gif"], "only, got .*a.gif"),
        (["ant/a.png", "notes.txt"], "got the file 'notes.txt'"),
        (["ant/deep.png/a.png"], "only, got .*deep.png"),
        (["ant/es\x1bc.png"], "printable"),
        (["ant/\u202e.png"], "printable"),
    ],
)
def test_anything_but_class_folders_of_images_is_refused(tmp_path, names, text):
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    with pytest.raises(InputError, match=text):
        read(tmp_path)


def test_file_names_outside_unicode_are_refused(tmp_path):
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    with pytest.raises(InputError, match="printable"):
        read(tmp_path)


@pytest.mark.parametrize("names", [[], ["ant"]])
def test_a_folder_without_images_is_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="expected images"):
        read(tmp_path)


@pytest.mark.parametrize("shape", [(20,), (2, 4, 5), (4, 4, 5)])
def test_a_model_of_something_else_is_refused(tmp_path, shape):
    put(tmp_path, "ant/a.png")
    with pytest.raises(InputError, match="model of images"):
        read(tmp_path, InputSpace(shape))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=5), cut=st.integers(0, 40))
def test_mutated_images_give_our_errors_only(tmp_path, suffix, changes, cut):
    path = put(tmp_path, f"ant/a.{suffix}")
    data = bytearray(path.read_bytes())
    for position, value in changes:
        data[position % len(data)] = value
    path.write_bytes(data[: len(data) - cut])
    try:
        (example,) = read(tmp_path)
    except CertifyError:
        return
    assert example.stored.shape == (3, 4, 5)
