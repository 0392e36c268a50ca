"""Tables of comma-separated text: numbers as written, labels by name or index, errors with their line."""

import numpy as np
import pytest

from certify.errors import InputError
from certify.loading import read_data
from certify.results import InputSpace

SPACE = InputSpace((2,), (-10.0, 10.0))
CLASSES = ("ant", "bee", "cat")


def read(tmp_path, text, *, classes=CLASSES, space=SPACE, **arguments):
    path = tmp_path / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_data(path, input=space, classes=classes, **arguments)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a,b,kind\n1.5,-2e-1,bee\n0.1,.5,cat\n", None),
        ("1.5,-2e-1,bee\n0.1,.5,cat\n", None),
        ("1.5,-2e-1,1\n0.1,.5,2\n", None),
        ("kind,a,b\nbee,1.5,-0.2\n\ncat,0.1,0.5", "kind"),
        ("a,kind,b\r\n1.5,1,-0.2\r\n0.1,2,0.5\r\n", "kind"),
        ('"a","b","kind"\n"1.5"," -0.2 "," bee "\n+0.1,0.5,cat\n', None),
        ("\ufeffkind,a,b\nbee,1.5,-0.2\ncat,0.1,0.5\n", "kind"),
    ],
)
def test_the_same_table_in_every_dress(tmp_path, text, label):
    data = read(tmp_path, text, label=label)
    assert [example.label for example in data] == [1, 2]
    assert [example.id for example in data] == ["0", "1"]
    assert [example.stored.tolist() for example in data] == [[1.5, -0.2], [0.1, 0.5]]
    assert all(example.stored.dtype == np.float64 for example in data)


def test_labels_are_names_when_classes_are_numbers(tmp_path):
    data = read(tmp_path, "0,0,7\n0,0,5\n", classes=("5", "7"))
    assert [example.label for example in data] == [1, 0]
    with pytest.raises(InputError, match="line 1: expected a label among"):
        read(tmp_path, "0,0,1\n", classes=("5", "7"))


def test_one_line_of_pixels_fits_an_image_of_one_channel(tmp_path):
    data = read(tmp_path, "1,2,3,4,ant\n", space=InputSpace((1, 2, 2)))
    assert data.examples[0].stored.tolist() == [[[1.0, 2.0], [3.0, 4.0]]]


def test_limits_leave_later_lines_unread(tmp_path):
    data = read(tmp_path, "0,1,ant\n2,3,bee\nbroken,5,cat\n", limit=1, skip=1)
    assert (data.selection, data.total, data.examples[0].id) == ("rows 1-1 of 3", 3, "1")


BAD = [
    ("empty", "", "none"),
    ("blank", "\n\n", "none"),
    ("one column", "1\n2\n", "features and a label"),
    ("semicolons", "1;2;ant\n", "features and a label"),
    ("header only", "a,b,kind\n", "rows below the header"),
    ("mixed header", "a,2,kind\n1,2,ant\n", "line 1: expected a header or numbers"),
    ("ragged", "1,2,ant\n1,ant\n", "line 2: expected 3 cells, got 2"),
    ("too many features", "1,2,3,ant\n", r"shape \[2\]"),
    ("text", "1,2,ant\n1,x,ant\n", "line 2: expected a finite number, got 'x'"),
    ("nothing", "1,2,ant\n1,,ant\n", "line 2: expected a finite number"),
    ("nan", "1,2,ant\n1,nan,ant\n", "line 2: expected a finite number"),
    ("inf", "1,2,ant\n1,inf,ant\n", "line 2: expected a finite number"),
    ("overflow", "1,2,ant\n1,1e999,ant\n", "line 2: expected a finite number"),
    ("underscore", "1,2,ant\n1,1_0,ant\n", "line 2: expected a finite number"),
    ("other digits", "1,2,ant\n1,٣,ant\n", "line 2: expected a finite number"),
    ("hexadecimal", "1,2,ant\n1,0x1p3,ant\n", "line 2: expected a finite number"),
    ("outside the range", "1,2,ant\n1,11,ant\n", r"1: expected values in \[-10.0, 10.0\]"),
    ("unknown label", "1,2,dog\n", "line 1: expected a label among the classes"),
    ("label index above", "1,2,3\n", "line 1: expected a label"),
    ("label negative", "1,2,-1\n", "line 1: expected a label"),
    ("label float", "1,2,1.0\n", "line 1: expected a label"),
    ("label in another case", "1,2,Ant\n", "line 1: expected a label"),
    ("not UTF-8", b"1,2,\xff\n", "UTF-8"),
    ("open quote", '1,2,"ant\n', "comma-separated"),
    ("NUL", b"1,2,a\0nt\n", "expected"),
]


@pytest.mark.parametrize(("text", "error"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_tables_are_refused_with_their_line(tmp_path, text, error):
    with pytest.raises(InputError, match=error) as caught:
        read(tmp_path, text)
    assert "data.csv" in str(caught.value)


@pytest.mark.parametrize("header", ["a,b,c", "kind,b,kind"])
def test_the_named_label_must_be_one_column(tmp_path, header):
    with pytest.raises(InputError, match="one column named 'kind'"):
        read(tmp_path, f"{header}\n1,2,ant\n", label="kind")
