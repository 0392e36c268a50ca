"""What `save` writes, `load` reads: the same function, from any architecture, and nothing else is accepted."""

import hashlib
import json

import msgspec
import pytest
import safetensors.torch
import torch
from torch import nn

from certify.errors import CertifyError, InputError, NoRuleError
from certify.graph import Graph, Operation
from certify.loading import Model, WeightsOnly, load, read_model_file, save, write_model_file
from certify.loading.model import check_classes
from certify.results import InputSpace
from tests.loading.networks import dense, normed, residual, tied

SHAPES = {dense: (3, 2, 2), normed: (3, 4, 4), residual: (3, 4, 4), tied: (4,)}


def state_hash(module):
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save(dense(), path, input_shape=(3, 2, 2))
    return path


@pytest.mark.parametrize("build", SHAPES)
def test_the_loaded_model_computes_what_the_module_computes(build, tmp_path):
    module, path, shape = build(), tmp_path / "model.safetensors", SHAPES[build]
    before, flags = state_hash(module), [part.training for part in module.modules()]
    save(module, path, input_shape=shape)
    assert state_hash(module) == before
    assert [part.training for part in module.modules()] == flags
    model = load(path)
    x = torch.randn(7, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = module.double().eval()(x)
    assert torch.allclose(model.predict(dtype=torch.float64)(x), expected, rtol=1e-10, atol=1e-10)
    assert torch.allclose(model.predict()(x).double(), expected, rtol=1e-3, atol=1e-3)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.classes == ("0", "1", "2")
    assert model.record.parameters == sum(t.numel() for t in safetensors.torch.load_file(path).values())


def test_predictions_carry_no_gradient_and_cast_their_input(saved):
    logits = load(saved).predict()(torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True))
    assert logits.is_inference()
    assert logits.dtype == torch.float32


def test_a_tied_weight_is_stored_once(tmp_path):
    save(tied(), tmp_path / "model.safetensors", input_shape=(4,))
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() == 16 for tensor in stored.values()) == 1


def test_normalisation_goes_into_the_file(tmp_path):
    module, path, mean, std = dense().eval(), tmp_path / "model.safetensors", [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    save(module, path, input_shape=(3, 2, 2), mean=mean, std=std)
    model = load(path)
    x = torch.rand(5, 3, 2, 2, dtype=torch.float64)
    normal = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.allclose(model.predict(dtype=torch.float64)(x), module.double()(normal), rtol=1e-9)
    assert model.input == InputSpace((3, 2, 2), (0.0, 1.0), "pixels")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, InputSpace((3, 2, 2), None, "input")),
        ({"range": (-1, 1)}, InputSpace((3, 2, 2), (-1.0, 1.0), "input")),
        ({"range": (0, 1)}, InputSpace((3, 2, 2), (0.0, 1.0), "pixels")),
        ({"mean": [0] * 3, "std": [1] * 3, "range": (0, 2)}, InputSpace((3, 2, 2), (0.0, 2.0), "input")),
        ({"space": "metres"}, InputSpace((3, 2, 2), None, "metres")),
    ],
)
def test_the_input_space_follows_the_arguments(tmp_path, arguments, expected):
    save(dense(), tmp_path / "model.safetensors", input_shape=(3, 2, 2), **arguments)
    assert load(tmp_path / "model.safetensors").input == expected


def test_two_saves_of_one_network_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(normed(), tmp_path / f"{name}.safetensors", input_shape=(3, 4, 4), classes=["a", "b", "ç"])
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def nan_weight(module):
    module[1].weight.data[0, 0] = float("nan")
    return module


REFUSED = [
    ("two classes too few", dense, {"classes": ["a"]}, "single logit"),
    ("one class too many", dense, {"classes": list("abcd")}, r"shape \[1, 4\]"),
    ("same class twice", dense, {"classes": list("aba")}, "'a' twice"),
    ("empty class", dense, {"classes": ["a", "", "b"]}, "1 to 1000 characters"),
    ("class of broken Unicode", dense, {"classes": ["a", "\ud800", "b"]}, "valid Unicode"),
    ("classes in one string", dense, {"classes": "abc"}, "Expected `array"),
    ("classes that are numbers", dense, {"classes": [0, 1, 2]}, "Expected `str`"),
    ("range of three", dense, {"range": (0, 1, 2)}, "range"),
    ("mean without std", dense, {"mean": [0.0] * 3}, "together"),
    ("std of zero", dense, {"mean": [0.0] * 3, "std": [1.0, 0.0, 1.0]}, "non-zero"),
    ("mean of two channels", dense, {"mean": [0.0] * 2, "std": [1.0] * 2}, "3 entries"),
    ("empty range", dense, {"range": (1.0, 1.0)}, "low < high"),
    ("NaN range", dense, {"range": (float("nan"), 1.0)}, "finite"),
    ("another input shape", dense, {"input_shape": (3, 2, 3)}, "traced|shape"),
    ("no input shape", dense, {"input_shape": ()}, "input shape"),
    ("giant input shape", dense, {"input_shape": (2**20, 2**20)}, "input shape"),
    ("NaN weight", lambda: nan_weight(dense()), {}, "finite"),
    ("half precision", lambda: dense().half(), {}, "float32 or float64"),
    ("single logit", lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), {}, "single logit"),
]


@pytest.mark.parametrize(("build", "arguments", "text"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED])
def test_save_refuses_and_writes_nothing(tmp_path, build, arguments, text):
    with pytest.raises(CertifyError, match=text):
        save(build(), tmp_path / "model.safetensors", **{"input_shape": (3, 2, 2), **arguments})
    assert list(tmp_path.iterdir()) == []


def rewrite(path, *, tensors=None, **metadata):
    """Change tensors or metadata of a file, without any check."""
    with safetensors.safe_open(path, framework="pt") as file:
        old = file.metadata()
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    new = {**old, **{f"certify.{key}": value for key, value in metadata.items()}}
    new = {key: value for key, value in new.items() if value is not None}
    path.write_bytes(safetensors.torch.save({**stored, **(tensors or {})}, new))


def input_json(**changes):
    return json.dumps({"shape": [3, 2, 2], "range": None, "space": "input", **changes})


HOSTILE = [
    ("a key missing", {"version": None}, "metadata keys"),
    ("a key unknown", {"code": "import os"}, "metadata keys"),
    ("version that is none", {"version": "<script>"}, "version"),
    ("input not JSON", {"input": "{"}, "strict JSON"),
    ("input with unknown key", {"input": input_json(code="x")}, "unknown field"),
    ("input of another shape", {"input": input_json(shape=[12])}, "input shape"),
    ("input with NaN range", {"input": input_json().replace("null", "[NaN, 1]")}, "strict JSON"),
    ("input with reversed range", {"input": input_json(range=[1, 0])}, "low < high"),
    ("input with boolean size", {"input": input_json(shape=[True, 2, 2])}, "Expected `int`"),
    ("classes not a list", {"classes": '{"a": 1}'}, "Expected `array`"),
    ("classes of numbers", {"classes": "[1, 2, 3]"}, "Expected `str`"),
    ("one class", {"classes": '["a"]'}, "single logit"),
    ("four classes", {"classes": '["a", "b", "c", "d"]'}, "one for each"),
    ("duplicate classes", {"classes": '["a", "a", "b"]'}, "twice"),
    ("lone surrogate", {"classes": '["a", "\\ud800", "b"]'}, "Unicode"),
    ("graph not JSON", {"graph": "import os"}, "strict JSON"),
    ("deep graph", {"graph": "[" * 100_000}, "nested deeper"),
    ("graph of a later format", {"graph": '{"format":2,"input_shape":[1],"operations":[],"output":"x"}'}, "format"),
    ("unused tensor", {"tensors": {"spare": torch.zeros(1)}}, "unused"),
    ("weight of another shape", {"tensors": {"1.weight": torch.zeros(5, 11)}}, "does not fit|shape"),
    ("weight of integers", {"tensors": {"1.weight": torch.zeros(5, 12, dtype=torch.int64)}}, "float32 or float64"),
    ("weight of bfloat16", {"tensors": {"1.weight": torch.zeros(5, 12, dtype=torch.bfloat16)}}, "float32 or float64"),
    ("NaN weight", {"tensors": {"1.weight": torch.full((5, 12), torch.nan)}}, "finite numbers"),
]


@pytest.mark.parametrize(("changes", "text"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_changed_header_is_refused(saved, changes, text):
    rewrite(saved, **changes)
    with pytest.raises(CertifyError, match=text) as caught:
        load(saved)
    assert len(str(caught.value)) < 2000


def test_a_counter_beside_the_weights_is_left_out_by_name(saved):
    rewrite(saved, tensors={"bn.num_batches_tracked": torch.tensor(3)})
    assert load(saved).classes == ("0", "1", "2")


def linear_graph(*extra, output="y", classes=2):
    operations = (
        Operation(name="x", kind="input"),
        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "w"}),
        *extra,
    )
    return Graph(operations, output, (2,), {"w": torch.ones(classes, 2)})


def test_a_graph_that_mixes_examples_is_refused(tmp_path):
    mixing = Operation(name="z", kind="flip", inputs=("y",), attributes={"dims": [0]})
    with pytest.raises(NoRuleError):
        write_model_file(tmp_path / "m.safetensors", linear_graph(mixing, output="z"), InputSpace((2,)), ("a", "b"))
    with pytest.raises(NoRuleError):
        Model(linear_graph(mixing, output="z"), InputSpace((2,)), ("a", "b"), "", "", "")


def test_a_giant_value_is_refused_before_it_is_made(tmp_path):
    giant = Operation(name="z", kind="expand", inputs=("y",), attributes={"shape": [2**20, 2**20, -1, 2]})
    with pytest.raises(CertifyError):
        write_model_file(tmp_path / "m.safetensors", linear_graph(giant, output="z"), InputSpace((2,)), ("a", "b"))


def test_write_and_read_of_a_graph_give_the_same_graph(tmp_path):
    graph = linear_graph()
    write_model_file(tmp_path / "m.safetensors", graph, InputSpace((2,), (0.0, 2.0), "kelvin"), ("hot", "cold"))
    model = read_model_file(tmp_path / "m.safetensors")
    assert isinstance(model, Model)
    assert (model.graph.operations, model.classes) == (graph.operations, ("hot", "cold"))
    assert msgspec.structs.astuple(model.input) == ((2,), (0.0, 2.0), "kelvin")
    assert str(tmp_path) not in model.record.source


def test_weights_only_is_a_value_and_load_says_how_to_go_on(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(normed().state_dict(), path)
    found = read_model_file(path)
    assert isinstance(found, WeightsOnly)
    assert "1.num_batches_tracked" not in found.tensors
    assert found.tensors["0.weight"].shape == (4, 3, 3, 3)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(NoRuleError, match="--arch") as caught:
        load(path)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".PT"])
def test_pickles_are_refused_unread_with_the_lines_that_convert_them(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'echo broken'\ntR.")
    with pytest.raises(InputError, match=r"certify\.save") as caught:
        load(path)
    lines = [line for line in str(caught.value).splitlines() if line.startswith("    ")]
    compile("\n".join(line[4:] for line in lines), "conversion", "exec")
    assert any(f"torch.load({path.name!r}, weights_only=True)" in line for line in lines)


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx", "model.h5", "model", "arch.py"])
def test_other_formats_are_refused_with_what_is_supported(tmp_path, name):
    with pytest.raises(InputError, match=r"expected a \.safetensors file"):
        load(tmp_path / name)


def test_folders_and_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="folder"):
        load(tmp_path)
    with pytest.raises(InputError, match="nothing at"):
        load(tmp_path / "model.safetensors")


def test_an_output_that_is_a_link_is_refused(tmp_path, saved):
    (tmp_path / "link.safetensors").symlink_to(saved)
    with pytest.raises(InputError, match="symbolic link"):
        save(dense(), tmp_path / "link.safetensors", input_shape=(3, 2, 2))


@pytest.mark.parametrize("classes", [(), ("a",), ("a" * 1001, "b")])
def test_class_lists_that_name_no_logits_are_refused(classes):
    with pytest.raises(InputError):
        check_classes(classes)
