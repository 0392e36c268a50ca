"""Reading a file runs nothing that the file brings: no code, no pickle, no process, no network, no writing."""

import contextlib
import copy
import json
import sys

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from certify.errors import CertifyError, InputError
from certify.loading import load, read_architecture, read_data, read_model_file, save
from certify.loading.model_file import _pack, parse_model_file
from certify.results import InputSpace
from tests.loading.networks import normed

FORBIDDEN = ("exec", "pickle.find_class", "os.system", "os.exec", "subprocess.Popen", "socket.connect", "ctypes.dlopen")
_watched: list[str] = []
_watching = False


def _audit(event, arguments):
    if not _watching:
        return
    writes = event == "open" and isinstance(arguments[1], str) and any(mode in arguments[1] for mode in "wax+")
    if event in FORBIDDEN or writes:
        _watched.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched():
    """Record every forbidden event that happens inside."""
    global _watching
    _watched.clear()
    _watching = True
    try:
        yield _watched
    finally:
        _watching = False


def test_the_watch_sees_what_it_is_for(tmp_path):
    with watched() as seen:
        exec("pass")
        (tmp_path / "new").write_text("x")
    assert [entry.split()[0] for entry in seen] == ["exec", "open"]


def _toml(folder):
    (folder / "arch.toml").write_text(
        'input_shape = [2]\nlayer = [{type = "linear", in_features = 2, out_features = 2}]'
    )
    return lambda: read_architecture(
        folder / "arch.toml"
    )  # tracing it afterwards runs code that torch.export generates


def _self_describing(folder):
    save(normed(), folder / "model.safetensors", input_shape=(3, 4, 4))
    return lambda: load(folder / "model.safetensors")


def _pickle(folder):
    (folder / "model.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")

    def read():
        with pytest.raises(InputError):
            load(folder / "model.pt")

    return read


def _images(folder):
    (folder / "data" / "0").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "data" / "0" / "a.png")
    return lambda: read_data(folder / "data", input=InputSpace((3, 4, 4)), classes=("0", "1"))


def _arrays(folder):
    np.savez(folder / "data.npz", x=np.zeros((2, 3), np.float32), y=np.zeros(2, int))
    return lambda: read_data(folder / "data.npz", input=InputSpace((3,)), classes=("0", "1"))


def _table(folder):
    (folder / "data.csv").write_text("=cmd|'/c calc'!A1,b,kind\n1,2,0\n")
    return lambda: read_data(folder / "data.csv", input=InputSpace((2,)), classes=("a", "b"))


READINGS = [_toml, _self_describing, _pickle, _images, _arrays, _table]


@pytest.mark.parametrize("prepare", READINGS)
def test_reading_runs_nothing(tmp_path, prepare):
    read = prepare(tmp_path)
    read()  # first, so that lazy imports of libraries are not mistaken for code of the file
    with watched() as seen:
        read()
    assert seen == []


def _paths(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inner:
        yield from _paths(entry, (*path, key))


def _replaced(plain, path, value):
    changed = parent = copy.deepcopy(plain)
    for key in path[:-1]:
        parent = parent[key]
    if value is _DELETED:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return changed


_DELETED = object()


@pytest.mark.parametrize(
    "value",
    [_DELETED, None, -1, 2**40, "x", [], {}, True, [2**30] * 2],
    ids=lambda value: "deleted" if value is _DELETED else repr(value),
)
def test_each_key_of_a_graph_deleted_or_retyped_gives_our_errors_only(tmp_path, value):
    save(normed(), tmp_path / "model.safetensors", input_shape=(3, 4, 4))
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    graph = read_model_file(tmp_path / "model.safetensors").graph
    plain = json.loads(graph.to_json())
    messages = []
    for path in list(_paths(plain))[1:]:
        changed = json.dumps(_replaced(plain, path, value))
        try:
            parse_model_file(_pack(graph.tensors, {**metadata, "certify.graph": changed}), path="model.safetensors")
        except CertifyError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert max(map(len, messages)) < 3000
