"""Arrays on disk become examples: the same numbers, in the model's layout, or a clear error."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.errors import CertifyError, InputError
from certify.examples import hash_array
from certify.loading import read_data
from certify.loading.arrays import parse_npy
from certify.loading.binary import parse_idx
from certify.loading.source import arrangement
from certify.results import InputSpace

IMAGES = InputSpace((3, 4, 5), (0.0, 1.0), "pixels")
CLASSES = ("ant", "bee", "cat")
X = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5), dtype=np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2, 0])


def npy(array, version=None):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version=version, allow_pickle=False)
    return buffer.getvalue()


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def write_pair(folder, x=X, y=Y, prefix=""):
    np.save(folder / f"{prefix}x.npy", x)
    np.save(folder / f"{prefix}y.npy", y)
    return folder / f"{prefix}x.npy"


def write_safetensors(folder, x=X, y=Y):
    safetensors.numpy.save_file({"x": np.ascontiguousarray(x), "y": y}, folder / "data.safetensors")
    return folder / "data.safetensors"


WRITERS = {
    "npz": lambda folder: write_npz(folder / "data.npz", x=X, y=Y),
    "compressed npz": lambda folder: (np.savez_compressed(folder / "data.npz", x=X, y=Y), folder / "data.npz")[1],
    "npz with more arrays": lambda folder: write_npz(folder / "data.npz", x=X, y=Y, names=np.array(["a"])),
    "npy folder": lambda folder: write_pair(folder).parent,
    "npy file": write_pair,
    "npy prefix": lambda folder: write_pair(folder, prefix="test_"),
    "fortran order": lambda folder: write_pair(folder, x=np.asfortranarray(X)),
    "height width channels": lambda folder: write_pair(folder, x=X.transpose(0, 2, 3, 1)),
    "small labels": lambda folder: write_pair(folder, y=Y.astype(np.uint8)),
    "big-endian labels": lambda folder: write_pair(folder, y=Y.astype(">i4")),
    "labels by name": lambda folder: write_pair(folder, y=np.array(CLASSES)[Y]),
    "safetensors": write_safetensors,
    "safetensors with small labels": lambda folder: write_safetensors(folder, y=Y.astype(np.uint8)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_array_format_gives_the_same_examples(tmp_path, writer):
    data = read_data(WRITERS[writer](tmp_path), input=IMAGES, classes=CLASSES)
    assert data.selection == "all 7"
    assert data.total == len(data) == 7
    assert [example.label for example in data] == Y.tolist()
    assert [(example.index, example.id) for example in data] == [(i, str(i)) for i in range(7)]
    for example, expected in zip(data, X, strict=True):
        assert example.stored.dtype == np.uint8
        assert example.stored.flags.c_contiguous
        assert np.array_equal(example.stored, expected)
        assert example.hash == hash_array(expected)
    reference = read_data(write_pair(tmp_path, prefix="reference_"), input=IMAGES, classes=CLASSES)
    assert data.sha256 == reference.sha256


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
def test_float_arrays_keep_their_numbers_and_precision(tmp_path, dtype):
    x = (X / 255).astype(dtype)
    for example, expected in zip(read_data(write_pair(tmp_path, x), input=IMAGES, classes=CLASSES), x, strict=True):
        assert example.stored.dtype == np.dtype(dtype).newbyteorder("=")
        assert np.array_equal(example.stored, expected)
        assert not example.eight_bit


@pytest.mark.parametrize(
    ("skip", "limit", "rows", "text"),
    [
        (0, 3, range(3), "rows 0-2 of 7"),
        (2, 3, range(2, 5), "rows 2-4 of 7"),
        (5, 9, range(5, 7), "rows 5-6 of 7"),
        (0, 7, range(7), "all 7"),
        (0, 99, range(7), "all 7"),
        (6, None, range(6, 7), "rows 6-6 of 7"),
    ],
)
def test_selections_are_rows_in_words(tmp_path, skip, limit, rows, text):
    data = read_data(write_pair(tmp_path), input=IMAGES, classes=CLASSES, skip=skip, limit=limit)
    assert [example.index for example in data] == list(rows)
    assert (data.selection, data.total) == (text, 7)


@pytest.mark.parametrize(("skip", "limit"), [(7, None), (100, 5), (-1, None), (0, 0), (0, -3)])
def test_empty_selections_are_refused(tmp_path, skip, limit):
    with pytest.raises(InputError, match="expected"):
        read_data(write_pair(tmp_path), input=IMAGES, classes=CLASSES, skip=skip, limit=limit)


def at(value, dtype=np.float32):
    x = (X / 255).astype(dtype)
    x[4, 1, 2, 3] = value
    return x


BAD_ARRAYS = [
    ("NaN", at(np.nan), Y, "4: expected finite"),
    ("infinity", at(np.inf), Y, "4: expected finite"),
    ("above the range", at(np.nextafter(np.float32(1), np.float32(2))), Y, r"4: expected values in \[0.0, 1.0\]"),
    ("below the range", at(-1e-300, np.float64), Y, "4: expected values in"),
    ("label above", X, np.array([0, 0, 0, 0, 3, 0, 0]), "4: expected a label from 0 to 2, got 3"),
    ("label negative", X, np.array([0, 0, 0, 0, -1, 0, 0]), "4: expected a label from 0 to 2, got -1"),
    ("label near 2**64", X, np.array([2**64 - 1] * 7, dtype=np.uint64), "got 18446744073709551615"),
    ("label names", X, np.array(["ant"] * 6 + ["dog"]), "'dog'"),
    ("label floats", X, Y.astype(float), "integers or class names"),
    ("label booleans", X, Y > 0, "integers or class names"),
    ("labels too few", X, Y[:-1], r"y of shape \[N\]"),
    ("labels as a column", X, Y[:, None], r"y of shape \[N\]"),
    ("values int64", X.astype(np.int64), Y, "astype"),
    ("values float16", X.astype(np.float16), Y, "astype"),
    ("values boolean", X > 3, Y, "astype"),
    ("values complex", X.astype(complex), Y, "array of numbers"),
    ("another size", X[..., :4], Y, r"shape \[3, 4, 5\]"),
    ("float images in another order", at(0.5).transpose(0, 2, 3, 1), Y, r"shape \[3, 4, 5\]"),
    ("width before height", X.transpose(0, 1, 3, 2), Y, r"shape \[3, 4, 5\]"),
    ("flat colours", X.reshape(7, 60), Y, r"shape \[3, 4, 5\]"),
    ("no example", X[:0], Y[:0], "at least one example, got none"),
    ("a scalar", np.uint8(3), Y, r"x of shape \[N, ...\]"),
]


@pytest.mark.parametrize(("x", "y", "text"), [case[1:] for case in BAD_ARRAYS], ids=[case[0] for case in BAD_ARRAYS])
def test_bad_arrays_are_refused_with_their_place(tmp_path, x, y, text):
    path = write_npz(tmp_path / "bad.npz", x=x, y=y)
    with pytest.raises(InputError, match=text) as caught:
        read_data(path, input=IMAGES, classes=CLASSES)
    assert "bad.npz" in str(caught.value)


def test_what_is_not_selected_is_not_checked(tmp_path):
    path = write_npz(tmp_path / "bad.npz", x=at(np.nan), y=Y)
    assert len(read_data(path, input=IMAGES, classes=CLASSES, limit=4)) == 4


def test_eight_bit_data_for_a_model_of_another_range_are_refused(tmp_path):
    space = InputSpace((3, 4, 5), (-1.0, 1.0))
    with pytest.raises(InputError, match="pixel/255"):
        read_data(write_pair(tmp_path), input=space, classes=CLASSES)
    assert read_data(write_pair(tmp_path), input=InputSpace((3, 4, 5)), classes=CLASSES).eight_bit


@pytest.mark.parametrize(
    ("shape", "wanted", "fits"),
    [
        ((4, 5), (1, 4, 5), True),
        ((1, 4, 5), (4, 5), True),
        ((20,), (1, 4, 5), True),
        ((1, 4, 5), (20,), True),
        ((4, 5), (20,), True),
        ((20,), (4, 5), True),
        ((4, 5, 1), (1, 4, 5), True),
        ((20,), (1, 20), True),
        ((5, 4), (1, 4, 5), False),
        ((5, 4), (4, 5), False),
        ((20,), (2, 2, 5), False),
        ((2, 2, 5), (20,), False),
        ((2, 10), (4, 5), False),
        ((4, 5, 3), (4, 3, 5), False),
        ((21,), (20,), False),
    ],
)
def test_shapes_are_brought_together_only_where_there_is_one_way(shape, wanted, fits):
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    if not fits:
        with pytest.raises(InputError, match="expected examples of shape"):
            arrangement(shape, wanted, eight_bit=True, name="x")
        return
    arranged = arrangement(shape, wanted, eight_bit=True, name="x")(values)
    assert arranged.shape == wanted
    assert arranged.ravel().tolist() == values.ravel().tolist()


def test_images_with_equal_sides_keep_the_stored_order():
    values = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert np.array_equal(arrangement((3, 3, 3), (3, 3, 3), eight_bit=True, name="x")(values), values)


class Hostile:
    def __reduce__(self):
        return print, ("a pickle ran",)


def raw_npy(header, body=b"", version=(1, 0)):
    text = header.encode("latin1").ljust(118) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + body


def header_of(shape, descr="'|u1'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


BAD_NPY = [
    ("empty", b"", "npy header"),
    ("no magic", b"PK\x03\x04" * 40, "npy header"),
    ("version 3", raw_npy(header_of("(2,)"), b"ab", (3, 0)), "version 3.0"),
    ("header is code", raw_npy("__import__('os').system('true')"), "npy header"),
    ("header is deep", raw_npy("[" * 110), "npy header"),
    ("header cut", raw_npy(header_of("(2,)"))[:20], "npy header"),
    ("too short", raw_npy(header_of("(3,)"), b"ab"), "3 bytes behind the header, got 2"),
    ("too long", raw_npy(header_of("(1,)"), b"ab"), "1 bytes behind the header, got 2"),
    ("giant", raw_npy(header_of(f"({2**62},)"), b"ab"), "the file is damaged"),
    ("giant product", raw_npy(header_of(f"({2**62}, {2**62})"), b"ab"), "the file is damaged"),
    ("beyond 64 bits", raw_npy(header_of(f"({2**70}, 0)"), b""), "sizes"),
    ("negative size", raw_npy(header_of("(-1, -2)"), b"ab"), "sizes"),
    ("many dimensions", raw_npy(header_of("(1,)*9".replace("(1,)*9", "(1,1,1,1,1,1,1,1,1)")), b"a"), "at most 8"),
    ("objects", raw_npy(header_of("(1,)", "'|O'"), b"12345678"), "nothing is unpickled"),
    ("records", raw_npy(header_of("(1,)", "[('a', '|u1')]"), b"a"), "array of numbers"),
    ("sub-arrays", raw_npy(header_of("(1,)", "('|u1', (2,))"), b"ab"), "npy header|array of numbers"),
    ("dates", raw_npy(header_of("(1,)", "'<M8[s]'"), b"12345678"), "array of numbers"),
    ("empty text", raw_npy(header_of("(1,)", "'<U0'"), b""), "array of numbers"),
]


@pytest.mark.parametrize(("data", "text"), [case[1:] for case in BAD_NPY], ids=[case[0] for case in BAD_NPY])
def test_bad_npy_files_are_refused(data, text):
    with pytest.raises(InputError, match=text):
        parse_npy(data, name="x.npy")


def test_a_pickled_array_is_never_unpickled(tmp_path, capsys):
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, np.array([Hostile()], dtype=object), allow_pickle=True)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "data.npz", x=np.array([Hostile()], dtype=object), y=Y)
    for path in (tmp_path, tmp_path / "data.npz"):
        with pytest.raises(InputError, match="nothing is unpickled"):
            read_data(path, input=IMAGES, classes=CLASSES)
    assert capsys.readouterr().out == ""


def zip_of(folder, entries, compression=zipfile.ZIP_STORED):
    path = folder / "data.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([("x.npy", npy(X))], "one array 'y'"),
        ([("y.npy", npy(Y))], "one array 'x'"),
        ([("x.npy", npy(X)), ("x.npy", npy(X)), ("y.npy", npy(Y))], "one array 'x'"),
        ([(f"{i}.npy", b"") for i in range(1001)], "at most 1000"),
        ([("x.npy", npy(X)[:-1]), ("y.npy", npy(Y))], "the file is damaged"),
    ],
)
def test_bad_archives_are_refused(tmp_path, entries, text):
    with pytest.raises(InputError, match=text):
        read_data(zip_of(tmp_path, entries), input=IMAGES, classes=CLASSES)


def test_a_flipped_byte_in_an_archive_is_noticed(tmp_path):
    path = write_npz(tmp_path / "data.npz", x=X, y=Y)
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"data\.npz"):
        read_data(path, input=IMAGES, classes=CLASSES)


def test_text_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"expected an \.npz file"):
        read_data(tmp_path / "data.npz", input=IMAGES, classes=CLASSES)


@pytest.mark.parametrize(
    ("x", "y", "text"), [(X.astype(np.int64), Y, "'x' of dtype"), (X, Y.astype(np.float32), "'y' of dtype")]
)
def test_safetensors_data_of_other_dtypes_are_refused(tmp_path, x, y, text):
    with pytest.raises(InputError, match=text):
        read_data(write_safetensors(tmp_path, x, y), input=IMAGES, classes=CLASSES)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


GRAY = InputSpace((1, 4, 5), (0.0, 1.0), "pixels")


@pytest.mark.parametrize("images", ["t10k-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte"])
@pytest.mark.parametrize("zipped_labels", [False, True])
def test_idx_images_find_their_labels(tmp_path, images, zipped_labels):
    x, y = idx(X[:, 0]), idx(Y)
    labels = images.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    (tmp_path / images).write_bytes(gzip.compress(x) if images.endswith(".gz") else x)
    (tmp_path / (labels + ".gz" * zipped_labels)).write_bytes(gzip.compress(y) if zipped_labels else y)
    data = read_data(tmp_path / images, input=GRAY, classes=CLASSES, skip=1, limit=5)
    assert [example.label for example in data] == Y[1:6].tolist()
    assert all(np.array_equal(example.stored, X[example.index, :1]) for example in data)
    assert data.selection == "rows 1-5 of 7"


def test_idx_labels_missing_or_named_instead_are_refused(tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(X[:, 0]))
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte"):
        read_data(tmp_path / "t10k-images-idx3-ubyte", input=GRAY, classes=CLASSES)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(Y))
    with pytest.raises(InputError, match="name the images"):
        read_data(tmp_path / "t10k-labels-idx1-ubyte", input=GRAY, classes=CLASSES)


BAD_IDX = [
    ("empty", b"", "unsigned bytes"),
    ("floats", bytes([0, 0, 13, 1, 0, 0, 0, 0]), "unsigned bytes"),
    ("no dimensions", bytes([0, 0, 8, 0]), "1 to 4 dimensions"),
    ("many dimensions", bytes([0, 0, 8, 5]) + bytes(20), "1 to 4 dimensions"),
    ("header cut", bytes([0, 0, 8, 3, 0, 0]), "ends in it"),
    ("too short", idx(Y)[:-1], "7 bytes behind the header, got 6"),
    ("too long", idx(Y) + b"\0", "got more"),
    ("giant", bytes([0, 0, 8, 2]) + b"\xff" * 8, "announced"),
    ("gzip bomb", gzip.compress(bytes([0, 0, 8, 1, 0x7F, 255, 255, 255])), "announced"),
    ("gzip cut", gzip.compress(idx(Y))[:-9], "gzip"),
    ("gzip of nothing", b"\x1f\x8b", "gzip"),
    ("gzip checksum", gzip.compress(idx(Y))[:-8] + bytes(8), "gzip"),
    ("gzip of more", gzip.compress(idx(Y) + b"\0" * 10_000_000), "got more"),
]


@pytest.mark.parametrize(("data", "text"), [case[1:] for case in BAD_IDX], ids=[case[0] for case in BAD_IDX])
def test_bad_idx_files_are_refused(data, text):
    with pytest.raises(InputError, match=text):
        parse_idx(data, name="images-idx3-ubyte")


COLOUR = InputSpace((3, 32, 32), (0.0, 1.0), "pixels")


@pytest.mark.parametrize(("classes", "labels"), [(10, (7,)), (20, (13, 99)), (100, (13, 99))])
def test_cifar_records_give_the_label_the_classes_ask_for(tmp_path, classes, labels):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    (tmp_path / "test.bin").write_bytes(b"".join(bytes(labels) + row.tobytes() for row in pixels))
    data = read_data(tmp_path / "test.bin", input=COLOUR, classes=tuple(map(str, range(classes))))
    assert {example.label for example in data} == {labels[-1] if classes == 100 else labels[0]}
    assert all(np.array_equal(e.stored, row.reshape(3, 32, 32)) for e, row in zip(data, pixels, strict=True))


@pytest.mark.parametrize(("size", "classes", "text"), [(3072, 10, "3073"), (0, 10, "3073"), (3073, 7, "10, 20 or 100")])
def test_bad_cifar_files_are_refused(tmp_path, size, classes, text):
    (tmp_path / "test.bin").write_bytes(bytes(size))
    with pytest.raises(InputError, match=text):
        read_data(tmp_path / "test.bin", input=COLOUR, classes=tuple(map(str, range(classes))))


@pytest.mark.parametrize("name", ["missing.npz", "data.parquet", "data.pkl", "data.tar.gz", "z.npy"])
def test_unknown_data_are_refused(tmp_path, name):
    if name != "missing.npz":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="expected"):
        read_data(tmp_path / name, input=IMAGES, classes=CLASSES)


def test_a_label_column_is_for_tables(tmp_path):
    with pytest.raises(InputError, match=r"\.csv tables only"):
        read_data(write_pair(tmp_path), input=IMAGES, classes=CLASSES, label="kind")


_PARSERS = {"npy": (parse_npy, npy(X[:2, 0])), "idx": (parse_idx, idx(X[:2, 0])), "gz": (parse_idx, None)}
_PARSERS["gz"] = (parse_idx, gzip.compress(idx(X[:2, 0])))


@pytest.mark.parametrize("kind", _PARSERS)
@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), max_size=4), cut=st.integers(0, 60))
def test_mutated_arrays_give_our_errors_only(kind, changes, cut):
    parse, seed = _PARSERS[kind]
    data = bytearray(seed)
    for position, value in changes:
        data[position % len(data)] = value
    try:
        array = parse(bytes(data[: len(data) - cut]), name="file")
    except CertifyError:
        return
    assert array.nbytes <= 8 * len(data)


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="{}()[]'\",:<|u1f8descrshapefortran_order0-Tue ", max_size=110))
def test_random_npy_headers_give_our_errors_only(text):
    try:
        parse_npy(raw_npy(text, b"abc"), name="x.npy")
    except CertifyError:
        return
