"""Weights meet their network: by a list of layers, by a factory in a file, by a factory in a module."""

import hashlib
import importlib
import sys
import tomllib

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from certify.errors import CertifyError, InputError, NoRuleError
from certify.loading import export, load, read_architecture
from certify.loading.architecture import fill
from certify.loading.layer_list import parse_layer_list
from certify.loading.layers import ARGUMENTS, LAYERS, make_layer
from tests.loading.networks import dense, normed, residual, tied

DENSE = """
input_shape = [3, 2, 2]
[[layer]]
type = "flatten"
[[layer]]
type = "linear"
in_features = 12
out_features = 5
[[layer]]
type = "relu"
[[layer]]
type = "linear"
in_features = 5
out_features = 3
"""

NORMED = """
input_shape = [3, 4, 4]
classes = ["ant", "bee", "cat"]
mean = [0.1, 0.2, 0.3]
std = [0.5, 0.25, 2]
layer = [
  {type = "conv2d", in_channels = 3, out_channels = 4, kernel_size = [3, 3], padding = 1},
  {type = "batch_norm2d", num_features = 4},
  {type = "relu"},
  {type = "flatten"},
  {type = "linear", in_features = 64, out_features = 3},
]
"""

RESIDUAL = """
input_shape = [3, 4, 4]
[[layer]]
name = "conv1"
type = "conv2d"
in_channels = 3
out_channels = 4
kernel_size = 3
padding = 1
bias = false
[[layer]]
name = "bn1"
type = "batch_norm2d"
num_features = 4
[[layer]]
type = "relu"
[[layer]]
type = "residual"
name = "sum"
  [[layer.main]]
  name = "block.conv"
  type = "conv2d"
  in_channels = 4
  out_channels = 4
  kernel_size = 3
  padding = 1
  [[layer.shortcut]]
  name = "downsample.0"
  type = "conv2d"
  in_channels = 4
  out_channels = 4
  kernel_size = 1
[[layer]]
type = "relu"
[[layer]]
type = "flatten"
[[layer]]
name = "fc"
type = "linear"
in_features = 64
out_features = 3
"""


def write_weights(folder, tensors):
    path = folder / "model.safetensors"
    safetensors.torch.save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return path


def write_text(folder, text, name="arch.toml"):
    (folder / name).write_text(text)
    return folder / name


def outputs_agree(model, module, shape, mean=None, std=None):
    x = torch.rand(5, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normal = x if mean is None else (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    return torch.allclose(model.predict(dtype=torch.float64)(x), module.double().eval()(normal), rtol=1e-9, atol=1e-9)


def test_a_list_of_layers_is_the_network(tmp_path):
    path, arch = write_weights(tmp_path, dense().state_dict()), write_text(tmp_path, DENSE)
    model = load(path, arch=arch)
    assert outputs_agree(model, dense(), (3, 2, 2))
    assert model.source == f"safetensors, layers arch.toml sha256={hashlib.sha256(arch.read_bytes()).hexdigest()}"
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [operation.module for operation in model.graph if operation.kind == "linear"] == ["1", "3"]


def test_a_list_of_layers_brings_normalisation_classes_and_skips_the_counter(tmp_path):
    path, arch = write_weights(tmp_path, normed().state_dict()), write_text(tmp_path, NORMED)
    model = load(path, arch=str(arch))
    assert outputs_agree(model, normed(), (3, 4, 4), [0.1, 0.2, 0.3], [0.5, 0.25, 2.0])
    assert (model.classes, model.input.range, model.input.space) == (("ant", "bee", "cat"), (0.0, 1.0), "pixels")


def test_a_residual_block_adds_its_branches_under_the_names_of_the_file(tmp_path):
    names = {"block.conv": "sum.block.conv", "downsample": "sum.downsample"}
    stored = {
        next((name.replace(old, new, 1) for old, new in names.items() if name.startswith(old)), name): tensor
        for name, tensor in residual().state_dict().items()
    }
    model = load(write_weights(tmp_path, stored), arch=write_text(tmp_path, RESIDUAL))
    assert outputs_agree(model, residual(), (3, 4, 4))


def test_an_empty_shortcut_is_the_identity(tmp_path):
    text = """
    input_shape = [4]
    [[layer]]
    type = "residual"
    main = [{type = "linear", in_features = 4, out_features = 4}, {type = "tanh"}]
    """
    weight, bias = torch.randn(4, 4), torch.randn(4)
    path = write_weights(tmp_path, {"0.main.0.weight": weight, "0.main.0.bias": bias})
    x = torch.randn(3, 4)
    expected = x + torch.tanh(x @ weight.T + bias)
    assert torch.allclose(load(path, arch=write_text(tmp_path, text)).predict()(x), expected, atol=1e-6)


def _cases():
    linear = '[[layer]]\ntype = "linear"\nin_features = 4\nout_features = 2\n'
    head = "input_shape = [4]\n"
    return [
        ("not TOML", "input_shape = [", "TOML"),
        ("duplicate key", head + head + linear, "TOML"),
        ("not UTF-8", b"input_shape = [4] # \xff", "TOML"),
        ("no input shape", linear, "input_shape"),
        ("unknown key", "inptu = 1\n" + head + linear, "inptu"),
        ("no layer", head, "list of 1 to"),
        ("empty list", head + "layer = []", "list of 1 to"),
        ("layer is a table", head + "[layer]\ntype = 'relu'", "list of 1 to"),
        ("layer is a number", head + "layer = [1]", "layer 0: expected a table"),
        ("no type", head + "[[layer]]\nname = 'a'", "expected a type"),
        ("unknown type", head + "[[layer]]\ntype = 'linaer'", "type among .*'linaer'"),
        ("type is code", head + "[[layer]]\ntype = 'os.system'", "type among"),
        ("argument missing", head + "[[layer]]\ntype = 'linear'\nin_features = 4", r"needs \['out_features'\]"),
        ("argument unknown", head + linear + "device = 'cuda'", r"got \['device'\]"),
        ("argument boolean", head + linear.replace("= 4", "= true"), "positive integer, got True"),
        ("argument zero", head + linear.replace("= 4", "= 0"), "positive integer, got 0"),
        ("argument a string", head + linear + "bias = 'no'", "true or false, got 'no'"),
        ("argument infinite", head + "[[layer]]\ntype = 'elu'\nalpha = inf", "finite number"),
        (
            "argument of a wrong length",
            head + "[[layer]]\ntype = 'group_norm'\nnum_groups = 3\nnum_channels = 4",
            "divisible",
        ),
        ("name taken", head + linear + "name = 'a'\n" + linear + "name = 'a'", "taken"),
        ("name taken by a default", head + linear + "name = '1'\n" + linear, "taken"),
        ("name inside a layer", head + linear + "name = 'a'\n" + linear + "name = 'a.b'", "inside another layer"),
        ("name reserved", head + linear + "name = 'forward'", "reserved"),
        ("name with a space", head + linear + "name = 'a b'", "letters"),
        ("name empty", head + linear + "name = ''", "letters"),
        ("name a number", head + linear + "name = 3", "letters"),
        ("residual without main", head + "[[layer]]\ntype = 'residual'", "takes main"),
        ("residual with more", head + "[[layer]]\ntype = 'residual'\nmain = [{type='relu'}]\nscale = 2", "takes main"),
        ("residual of a string", head + "[[layer]]\ntype = 'residual'\nmain = 'relu'", "got str"),
        (
            "deep blocks",
            head + "layer = [" + "{type='residual', main=[" * 20 + "{type='relu'}" + "]}" * 20 + "]",
            "nested",
        ),
        ("negative input size", "input_shape = [-4]\n" + linear, "positive sizes"),
        ("mean alone", head + "mean = [0, 0, 0, 0]\n" + linear, "together"),
    ]


@pytest.mark.parametrize(("text", "error"), [case[1:] for case in _cases()], ids=[case[0] for case in _cases()])
def test_a_broken_list_is_refused_by_name(tmp_path, text, error):
    weights = write_weights(tmp_path, {"0.weight": torch.ones(2, 4), "0.bias": torch.ones(2)})
    (tmp_path / "arch.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=error):
        load(weights, arch=tmp_path / "arch.toml")


@pytest.mark.parametrize("kind", LAYERS)
def test_every_argument_of_every_layer_has_a_check(kind):
    layer = LAYERS[kind]
    assert layer.required | layer.optional <= ARGUMENTS.keys()
    known = nn.Module.__init__.__code__  # a class that takes anything would hide a misspelt argument
    assert layer.make.__init__.__code__ is not known or not (layer.required | layer.optional)


MINIMAL = {
    **dict.fromkeys(("in_features", "in_channels", "num_features", "num_channels", "normalized_shape"), 4),
    "out_features": 4,
    "out_channels": 4,
    "kernel_size": 1,
    "num_groups": 2,
    "output_size": 1,
    "padding": 1,
    "dim": 1,
    "scale_factor": 2,
}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_is_made_from_its_required_arguments(kind):
    module = make_layer(kind, {name: MINIMAL[name] for name in LAYERS[kind].required}, kind)
    assert isinstance(module, nn.Module)
    spelled = "".join(part.capitalize() for part in kind.replace("_norm", " norm").replace("_", " ").split())
    spelled = {"UpsampleNearest": "Upsample"}.get(spelled, spelled)
    assert type(module).__name__.lower() == spelled.lower()


def test_sizes_too_large_to_hold_cost_nothing_before_the_weights_are_seen(tmp_path):
    text = "input_shape = [4]\n[[layer]]\ntype = 'linear'\nin_features = 1048576\nout_features = 1048576\n"
    with pytest.raises(InputError, match="expected the shape"):
        load(
            write_weights(tmp_path, {"0.weight": torch.ones(2, 4), "0.bias": torch.ones(2)}),
            arch=write_text(tmp_path, text),
        )


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(RESIDUAL) - 1), st.text(max_size=3), st.integers(0, 5))
def test_mutated_lists_give_our_errors_only(position, insert, cut):
    text = RESIDUAL[:position] + insert + RESIDUAL[position + cut :]
    try:
        parse_layer_list(text.encode("utf-8", "replace"), name="arch.toml", source="")
    except CertifyError:
        return
    tomllib.loads(text)


FILLS = [
    ("missing", {"1.weight": None}, r"none for \['1.weight'\]"),
    ("extra", {"5.weight": torch.ones(1)}, r"got \['5.weight'\] beside"),
    ("other shape", {"1.weight": torch.ones(12, 5)}, r"1.weight: expected the shape \[5, 12\], got \[12, 5\]"),
    ("integers", {"1.weight": torch.ones(5, 12, dtype=torch.int64)}, "expected a dtype like torch.float32"),
]


@pytest.mark.parametrize(("changes", "text"), [case[1:] for case in FILLS], ids=[case[0] for case in FILLS])
def test_weights_that_do_not_fill_the_network_are_refused_by_name(tmp_path, changes, text):
    tensors = {**dense().state_dict(), **changes}
    path = write_weights(tmp_path, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    with pytest.raises(InputError, match=text):
        load(path, arch=write_text(tmp_path, DENSE))


def test_half_precision_weights_are_refused_not_cast(tmp_path):
    path = write_weights(tmp_path, dense().half().state_dict())
    with pytest.raises(CertifyError, match="float32 or float64"):
        load(path, arch=write_text(tmp_path, DENSE))


def test_double_precision_weights_keep_their_precision(tmp_path):
    module = dense().double()
    module[1].weight.data += 1e-12
    model = load(write_weights(tmp_path, module.state_dict()), arch=write_text(tmp_path, DENSE))
    assert torch.equal(model.graph.tensors["1.weight"], module[1].weight)


@pytest.mark.parametrize("names", [("first",), ("second",), ("first", "second")])
def test_tied_parameters_need_one_entry(names):
    source, target = tied().state_dict(), tied()
    with torch.no_grad():
        target.first.weight.zero_()
    kept = {f"{name}.weight": source["first.weight"] for name in names}
    fill(target, {**kept, "last.weight": source["last.weight"], "last.bias": source["last.bias"]})
    assert torch.equal(target.first.weight, source["first.weight"])
    assert torch.equal(target.second.weight, source["first.weight"])


def test_tied_parameters_that_disagree_are_refused():
    source = tied().state_dict()
    with pytest.raises(InputError, match=r"'first.weight' and 'second.weight'"):
        fill(tied(), {**source, "second.weight": source["first.weight"] + 1})


FACTORY = """
import torch
from torch import nn

def build():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    return module, {"input_shape": (3, 2, 2), "classes": ["a", "b", "c"], "mean": [0, 0, 0], "std": [1.0, 1.0, 1.0]}

def bare():
    return nn.Linear(2, 2)

def lists():
    return [nn.Linear(2, 2), {"input_shape": (2,)}]

def misspelt():
    return nn.Linear(2, 2), {"input_shape": (2,), "clases": ["a", "b"]}

def shapeless():
    return nn.Linear(2, 2), {}

def broken():
    raise ZeroDivisionError("the factory's own")

constant = 3
"""


@pytest.fixture
def factory(tmp_path):
    return write_text(tmp_path, FACTORY, "arch.py")


def test_a_factory_in_a_file_is_run_once_and_named_by_hash_without_its_folder(tmp_path, factory):
    path = write_weights(tmp_path, dense().state_dict())
    model = load(path, arch=f"{factory}:build")
    assert outputs_agree(model, dense(), (3, 2, 2))
    assert (
        model.source == f"safetensors, factory arch.py:build sha256={hashlib.sha256(factory.read_bytes()).hexdigest()}"
    )
    assert (model.classes, model.input.range) == (("a", "b", "c"), (0.0, 1.0))
    assert not (tmp_path / "__pycache__").exists()


def test_a_factory_in_the_working_folder_is_imported_as_a_module(tmp_path, factory, monkeypatch):
    (tmp_path / "nets_for_test").mkdir()
    factory.rename(tmp_path / "nets_for_test" / "dense.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    before = list(sys.path)
    architecture = read_architecture("nets_for_test.dense:build")
    assert sys.path == before
    assert architecture.source.startswith("factory nets_for_test.dense:build sha256=")
    assert architecture.facts.input_shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("bare", "a network and its facts .* got Linear"),
        ("lists", "got list"),
        ("misspelt", "clases"),
        ("shapeless", "input_shape"),
        ("constant", "function 'constant'"),
        ("absent", "function 'absent'"),
    ],
)
def test_what_is_no_factory_is_refused_with_the_convention(factory, function, text):
    with pytest.raises(InputError, match=text):
        read_architecture(f"{factory}:{function}")


def test_an_exception_of_the_factory_is_named_with_its_line(factory):
    with pytest.raises(InputError, match=r"ZeroDivisionError: the factory's own, line \d+ of arch.py") as caught:
        read_architecture(f"{factory}:broken")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("code", ["import sys\nsys.exit(1)\n", "def build():\n    raise SystemExit(1)\n"])
def test_an_exit_of_the_factory_is_no_verdict(tmp_path, code):
    (tmp_path / "leaves.py").write_text(code)
    with pytest.raises(InputError, match=r"got SystemExit: 1, line 2 of leaves\.py"):
        read_architecture(f"{tmp_path / 'leaves.py'}:build")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("arch", "FILE.toml"),
        ("arch.py", "FILE.toml"),
        ("arch.json", "FILE.toml"),
        ("arch.py:", "FILE.toml"),
        ("arch.py:a.b", "FILE.toml"),
        ("http://host/arch:build", "FILE.toml"),
        ("missing_file.py:build", "nothing at"),
        ("missing.toml", "nothing at"),
        ("missing_module_of_nobody:build", "cannot import"),
    ],
)
def test_names_of_no_architecture_are_refused(name, text):
    with pytest.raises(InputError, match=text):
        read_architecture(name)


def test_a_file_that_cannot_be_compiled_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot run"):
        read_architecture(f"{write_text(tmp_path, 'def build(:', 'arch.py')}:build")


def test_export_writes_what_load_reads(tmp_path, factory):
    path = write_weights(tmp_path, dense().state_dict())
    export(f"{factory}:build", tmp_path / "out.safetensors", weights=path)
    assert outputs_agree(load(tmp_path / "out.safetensors"), dense(), (3, 2, 2))
    export(f"{factory}:build", tmp_path / "own.safetensors")
    assert load(tmp_path / "own.safetensors").classes == ("a", "b", "c")
    export(write_text(tmp_path, DENSE), tmp_path / "listed.safetensors", weights=path)
    assert outputs_agree(load(tmp_path / "listed.safetensors"), dense(), (3, 2, 2))


def test_export_of_a_list_without_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match="--weights"):
        export(write_text(tmp_path, DENSE), tmp_path / "out.safetensors")


def test_an_architecture_for_a_file_that_has_one_is_refused(tmp_path, factory):
    export(f"{factory}:build", tmp_path / "out.safetensors")
    with pytest.raises(InputError, match="leave out"):
        load(tmp_path / "out.safetensors", arch=f"{factory}:build")
    with pytest.raises(InputError, match="describes itself"):
        export(f"{factory}:build", tmp_path / "again.safetensors", weights=tmp_path / "out.safetensors")


def test_a_network_outside_the_vocabulary_is_refused_by_name(tmp_path):
    text = "import torch\ndef build():\n    return torch.nn.LSTM(2, 2), {'input_shape': (3, 2)}\n"
    with pytest.raises(NoRuleError):
        export(f"{write_text(tmp_path, text, 'arch.py')}:build", tmp_path / "out.safetensors")


def test_a_reparametrised_network_is_filled_under_its_own_names():
    def build(seed):
        torch.manual_seed(seed)
        normed_layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        return nn.Sequential(normed_layer, nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))).eval()

    source, target, x = build(0), build(1), torch.ones(3, 4)
    assert not torch.equal(source(x), target(x))
    fill(target, source.state_dict())
    assert torch.equal(source(x), target(x))
