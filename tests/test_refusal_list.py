"""The refusal list, one test or group an item: no certificate, a reason with the place, and the exit code 2 or 3.

Everything goes through what a user calls: `certify.save`, `certify.load` and the command line. What is made harmless
instead of refused is compared with the truth. Item 15, a base classifier that is no function of its input, cannot be
reached from here: a saved graph has neither state nor randomness, because `certify.save` refuses both (the last group);
`tests/smoothing/test_function_check.py` tests the check on the votes themselves.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import certify
from certify.cli.app import main
from certify.errors import InputError, NoRuleError

REPORT = "report.json"


class Calling(nn.Module):
    """A function of the input before a linear layer."""

    def __init__(self, function: Callable[[Calling, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, x))


def nested(function) -> nn.Module:
    """A network whose function stands at the module path ``1.1``."""
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Calling(function)))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(module: nn.Module, path: str = "model.safetensors", **facts) -> None:
    certify.save(module, path, **{"input_shape": (4,), **facts})


def bound_of(path: str) -> float:
    """Return the proved bound alone; the truth it is held to is computed here, so nothing needs to be attacked."""
    return certify.lipschitz(path, falsify="off").network.upper


def images(low: int, high: int, count: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (count, 1, 2, 2), dtype=np.uint8)


SAVED: dict[str, bytes] = {}


def brightness(**facts) -> None:
    """Save a network of 1 x 2 x 2 images: class 1 iff their mean is above one half; traced once for all tests."""
    if (key := repr(facts)) not in SAVED:
        layer = nn.Linear(4, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.stack([-torch.ones(4), torch.ones(4)]))
            layer.bias.copy_(torch.tensor([2.0, -2.0]))
        save(nn.Sequential(nn.Flatten(), layer), **{"input_shape": (1, 2, 2), "range": (0, 1), **facts})
        SAVED[key] = Path("model.safetensors").read_bytes()
    Path("model.safetensors").write_bytes(SAVED[key])


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys, *arguments: object) -> tuple[int, str]:
    """Run a command that must give no result at all; return its exit code and its one line."""
    code, out, err = run(capsys, *arguments, "-o", REPORT)
    assert out == ""
    assert not Path(REPORT).exists()
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("certify: ")]
    assert len(lines) == 1, err
    return code, lines[0]


def uncertified(capsys, *arguments: object) -> tuple[int, dict]:
    """Run a command that gives a report without a bound and without a certificate; return its exit code and report."""
    code, out, _ = run(capsys, *arguments, "--format", "json", "-q")
    report = json.loads(out)
    assert report["network"]["upper"] is None
    assert all(example["radius"] == 0 and example["predicted"] is None for example in report["examples"])
    return code, report


SMOOTH = ("smooth", "data.npz", "--sigma", "0.25", "--n", "128", "-q")
LIPSCHITZ = ("lipschitz", "model.safetensors", "data.npz")
COMMANDS = pytest.mark.parametrize("command", [LIPSCHITZ, SMOOTH], ids=["lipschitz", "smooth"])


# 1: train mode


def trained() -> nn.Module:
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    module = nn.Sequential(normed, nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    for _ in range(3):
        module(torch.randn(8, 4))
    return module.train()


def state_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update(repr([part.training for part in module.modules()]).encode())
    return digest.hexdigest()


def test_01_a_module_in_train_mode_is_saved_as_it_evaluates_and_stays_as_it_is():
    module = trained()
    before = state_hash(module)
    save(module, "train.safetensors")
    assert state_hash(module) == before
    save(module.eval(), "eval.safetensors")
    assert Path("train.safetensors").read_bytes() == Path("eval.safetensors").read_bytes()
    x = torch.randn(50, 4)
    assert torch.allclose(certify.load("train.safetensors").predict()(x), module(x).detach(), atol=1e-5)


@COMMANDS
def test_01_a_run_leaves_the_model_file_as_it_is(capsys, command):
    brightness()
    np.savez("data.npz", x=images(0, 100), y=np.zeros(24, dtype=int))
    before = Path("model.safetensors").read_bytes()
    assert run(capsys, *command)[0] == 0
    assert Path("model.safetensors").read_bytes() == before


# 2, 4, 5, 15: what tracing refuses, each by name; 6: what has no bound


def _unused(_: Calling, x: Tensor) -> Tensor:
    torch.erfinv(x)
    return x


def _written_view(_: Calling, x: Tensor) -> Tensor:
    left, right = (x + 1).chunk(2, 1)
    F.relu_(left)
    return torch.cat([left, right], 1)


def _written_behind_its_reader(_: Calling, x: Tensor) -> Tensor:
    y = x + 1
    F.relu_(y.view(-1, 2, 2))
    return y


def _written_buffer(module: Calling, x: Tensor) -> Tensor:
    module.norm.running_mean.add_(1)
    return module.norm(x)


UNTRACEABLE = {
    "02 an operation outside the vocabulary": (lambda m, x: torch.erfinv(x), ("erfinv", "1.1")),
    "02 an operation whose result is unused": (_unused, ("erfinv", "1.1")),
    "02 an attribute value outside the vocabulary": (
        lambda m, x: F.interpolate(x[:, None, None], size=(1, 4), mode="bicubic").flatten(1),
        ("bicubic", "1.1"),
    ),
    "04 control flow that depends on data": (lambda m, x: x if x.sum() > 0 else -x, ("control flow",)),
    "04 a buffer written in forward": (_written_buffer, ("writes", "add_", "1.1")),
    "05 a write to one of two live views": (_written_view, ("in place", "1.1")),
    "05 a write to a value with another reader": (_written_behind_its_reader, ("in place", "1.1")),
    "06 a square root": (lambda m, x: x.abs().sqrt(), ("sqrt", "1.1")),
    "07 half precision inside": (lambda m, x: x.half().float(), ("float16", "1.1")),
    "15 dropout that is always on": (lambda m, x: F.dropout(x, 0.5, training=True), ("random", "1.1")),
    "15 statistics of the batch": (lambda m, x: F.batch_norm(x, None, None, training=True), ("statistics", "1.1")),
    "15 random numbers": (lambda m, x: x + torch.rand(4), ("rand",)),
    "15 another example of the batch": (lambda m, x: x + x.roll(1, 0), ("different examples", "1.1")),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_traced_is_refused_by_name_and_place(name):
    function, words = UNTRACEABLE[name]
    with pytest.raises(NoRuleError) as caught:
        save(nested(function))
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.exit_code == 3
    assert not Path("model.safetensors").exists()


def test_02_the_command_line_exits_3_and_names_the_module(capsys):
    Path("net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Inner(nn.Module):\n    def forward(self, x):\n        return torch.erfinv(x)\n"
        "def build():\n    return nn.Sequential(Inner(), nn.Linear(4, 2)), {'input_shape': (4,)}\n"
    )
    assert main(["export", "net.py:build", "-o", "model.safetensors"]) == 3
    assert "erfinv.default at 0" in capsys.readouterr().err
    assert not Path("model.safetensors").exists()
    save_file({"1.weight": torch.ones(2, 4), "1.bias": torch.zeros(2)}, "weights.safetensors")
    code, line = refused(capsys, "lipschitz", "weights.safetensors", "--arch", "net.py:build")
    assert code == 3
    assert "erfinv.default at 0" in line


def test_04_hooks_and_an_own_call_are_refused_by_path():
    class Own(nn.Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(2 * x)

    hooked = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    hooked[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    for module, word in ((hooked, "hook"), (nn.Sequential(nn.ReLU(), Own(4, 2)), "__call__")):
        with pytest.raises(NoRuleError, match=rf"^1: .*{word}"):
            save(module)


def test_05_a_write_that_every_reader_sees_is_the_new_value_for_each_of_them():
    module = nested(lambda m, x: F.relu_(y := x + 1) + y)
    save(module)
    x = torch.randn(50, 4)
    assert torch.allclose(certify.load("model.safetensors").predict()(x), module(x).detach(), atol=1e-5)


# 3: counting by the graph


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_03_a_module_called_twice_costs_its_bound_squared(capsys, norm):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)
            self.head = nn.Linear(4, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.layer(x).relu()))

    module = Twice()
    with torch.no_grad():
        module.layer.weight.copy_(3 * torch.eye(4))
        module.head.weight.copy_(torch.eye(2, 4))
    save(module)
    code, out, _ = run(capsys, "lipschitz", "model.safetensors", "--norm", norm, "--format", "json")
    assert code == 0
    assert 9.0 <= json.loads(out)["network"]["upper"] < 9.001
    assert [row["name"] for row in json.loads(out)["layers"]].count("layer") == 2


# 6: what has no global bound


def attention() -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.MultiheadAttention(2, 1, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = x.reshape(-1, 2, 2)
            return self.head(self.block(x, x, x)[0].flatten(1))

    return Attention()


UNBOUNDED = {
    "dot-product attention": (attention, "block"),
    "a layer norm without eps": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, eps=0.0), nn.Linear(4, 2)),
        "1",
    ),
    "a division near 0": (lambda: nested(lambda m, x: x / x.abs().sum(1, keepdim=True)), "1.1"),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_06_what_has_no_bound_exits_3_with_the_module_and_certifies_nothing(name, capsys):
    build, place = UNBOUNDED[name]
    save(build())
    np.savez("data.npz", x=np.full((3, 4), 0.5, dtype=np.float32), y=np.zeros(3, dtype=int))
    code, report = uncertified(capsys, *LIPSCHITZ, "--method", "product")  # gains over all inputs alone
    assert code == 3
    assert f"at {place}" in report["network"]["reason"]
    network = json.loads(run(capsys, *LIPSCHITZ, "--format", "json")[1])["network"]
    assert network["upper"] is None
    assert f"at {place}" in network["reason"]


# 7: arithmetic


def test_07_autocast_refuses_saving_and_smoothing_and_cannot_change_a_proof(capsys):
    brightness()
    np.savez("data.npz", x=images(0, 100), y=np.zeros(24, dtype=int))
    plain = json.loads(run(capsys, *LIPSCHITZ, "--format", "json")[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(NoRuleError, match="autocast"):
            save(nn.Linear(4, 2), "other.safetensors")
        code, line = refused(capsys, *SMOOTH)
        inside = json.loads(run(capsys, *LIPSCHITZ, "--format", "json")[1])
    assert code == 2
    assert "autocast" in line
    assert inside["digest"] == plain["digest"]


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_07_products_in_less_than_float32_refuse_smoothing_and_cannot_change_a_proof(capsys, precision):
    brightness()
    np.savez("data.npz", x=images(0, 100), y=np.zeros(24, dtype=int))
    plain = json.loads(run(capsys, *LIPSCHITZ, "--falsify", "off", "--format", "json")[1])
    torch.set_float32_matmul_precision(precision)
    try:
        code, line = refused(capsys, *SMOOTH)
        inside = json.loads(run(capsys, *LIPSCHITZ, "--falsify", "off", "--format", "json")[1])
    finally:
        torch.set_float32_matmul_precision("highest")
    assert code == 2
    assert "highest" in line
    assert inside["digest"] == plain["digest"]


@COMMANDS
def test_07_flushed_subnormals_refuse_every_certificate(capsys, command):
    brightness()
    np.savez("data.npz", x=images(0, 100), y=np.zeros(24, dtype=int))
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        code, line = refused(capsys, *command)
    finally:
        torch.set_flush_denormal(False)
    assert code == 2
    assert "set_flush_denormal(False)" in line


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.ReLU(), torch.ao.nn.quantized.dynamic.Linear(4, 2))


def test_07_a_quantised_module_is_refused_by_path():
    with pytest.raises(NoRuleError, match=r"^1: quantised"):
        save(quantised())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_07_other_dtypes_are_refused_by_path(dtype):
    with pytest.raises(InputError, match=r"^1\.weight: expected dtype float32 or float64"):
        save(nn.Sequential(nn.ReLU(), nn.Linear(4, 2, dtype=dtype)))


def test_07_counters_are_left_out_by_name():
    save(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))
    assert not any("num_batches_tracked" in name for name in certify.load("model.safetensors").graph.tensors)


# 8: NaN, infinity and forms without numbers

BAD = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_mean", "1.running_var"])
def test_08_a_tensor_that_is_not_finite_is_refused_by_name(name, value):
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with torch.no_grad():
        module.state_dict()[name].view(-1)[1] = value
    with pytest.raises(InputError, match=f"^{name}: .*finite"):
        save(module)
    assert not Path("model.safetensors").exists()


@COMMANDS
@pytest.mark.parametrize("value", BAD)
def test_08_a_file_whose_weight_is_not_finite_is_refused(capsys, value, command):
    brightness()
    np.savez("data.npz", x=images(0, 100), y=np.zeros(24, dtype=int))
    data = bytearray(Path("model.safetensors").read_bytes())
    data[-4:] = np.float32(value).tobytes()  # the last number of the last tensor
    Path("model.safetensors").write_bytes(data)
    code, line = refused(capsys, *command)
    assert code == 2
    assert "model.safetensors" in line
    assert "NaN or infinity" in line or "finite" in line


@COMMANDS
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_08_an_input_that_is_not_finite_is_refused_with_its_row(capsys, dtype, value, command):
    brightness()
    x = (images(0, 100) / 255).astype(dtype)
    x[17, 0, 1, 1] = value
    np.savez("data.npz", x=x, y=np.zeros(24, dtype=int))
    code, line = refused(capsys, *command)
    assert code == 2
    assert "data.npz: 17: expected finite values" in line


def test_08_a_table_with_a_number_that_is_not_finite_is_refused_with_its_line(capsys):
    save(nn.Linear(4, 2))
    Path("data.csv").write_text("a,b,c,d,label\n1,2,3,4,0\n1,nan,3,4,1\n")
    code, line = refused(capsys, "lipschitz", "model.safetensors", "data.csv")
    assert code == 2
    assert "line 3: expected a finite number, got 'nan'" in line


FORMS = {
    "complex": lambda: torch.zeros(2, 4, dtype=torch.complex64),
    "sparse": lambda: torch.ones(2, 4).to_sparse(),
    "meta": lambda: torch.ones(2, 4, device="meta"),
    "ragged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("form", FORMS)
def test_08_forms_that_hold_no_plain_numbers_are_refused_by_name(form):
    module = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
    module[1].register_buffer("odd", FORMS[form]())
    with pytest.raises(InputError, match=r"^1\.odd: expected"):
        save(module)


def test_08_a_weight_of_stride_0_counts_with_all_its_entries():
    layer = nn.Linear(4, 2)
    layer.weight = nn.Parameter(torch.ones(1).expand(2, 4))
    save(layer)
    assert 8**0.5 <= bound_of("model.safetensors") < 8**0.5 * 1.001


# 9: inputs, outputs, classes


class Several(nn.Module):
    """Two inputs, or two outputs."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs, self.layer = inputs, nn.Linear(4, 2)
        if inputs == 2:
            self.forward = self.two_inputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), x

    def two_inputs(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(x + y)


@pytest.mark.parametrize(("inputs", "words"), [(1, "one input and one output, got 1 and 2"), (2, "one tensor in")])
def test_09_several_inputs_or_outputs_are_refused(inputs, words):
    with pytest.raises(NoRuleError, match=words):
        save(Several(inputs))


@pytest.mark.parametrize(
    ("outputs", "classes", "words"),
    [(2, ["a", "b", "c"], r"logits of shape \[1, 3\].*got \[1, 2\]"), (1, None, "single logit"), (1, ["a"], "got 1")],
)
def test_09_logits_that_are_not_the_classes_are_refused(outputs, classes, words):
    with pytest.raises(InputError, match=words):
        save(nn.Linear(4, outputs), classes=classes)
    assert not Path("model.safetensors").exists()


# 10: the space of the inputs


@COMMANDS
@pytest.mark.parametrize("value", [-0.01, 1.01, 200.0])
def test_10_values_outside_the_declared_range_are_refused_with_their_row(capsys, command, value):
    brightness()
    x = (images(0, 100) / 255).astype(np.float32)
    x[5, 0, 0, 0] = value
    np.savez("data.npz", x=x, y=np.zeros(24, dtype=int))
    code, line = refused(capsys, *command)
    assert code == 2
    assert "data.npz: 5: expected values in [0.0, 1.0]" in line


@COMMANDS
def test_10_data_normalised_before_a_model_that_normalises_give_a_warning_with_this_cause(capsys, command):
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-torch.ones(4), torch.ones(4)]))
        layer.bias.zero_()
    save(nn.Sequential(nn.Flatten(), layer), input_shape=(1, 2, 2), mean=[0.5], std=[0.1], range=(-10, 10))
    pixels = np.concatenate([images(90, 120), images(135, 165)]).astype(np.float32) / 255
    labels = np.repeat([0, 1], 24)
    command = [*(argument for argument in command if argument != "-q"), "--falsify", "off"]
    np.savez("data.npz", x=pixels, y=labels)
    assert "warning" not in run(capsys, *command)[2]
    np.savez("data.npz", x=(pixels - 0.5) / 0.1 - 5, y=labels)  # all far below the mean: every answer is class 0
    code, _, err = run(capsys, *command)
    assert code == 0
    warning = [line for line in err.splitlines() if line.startswith("warning")]
    assert len(warning) == 1
    assert "24 of 48" in warning[0]
    assert "normalised already" in warning[0]
    assert "warning" not in run(capsys, *command, "--skip", "24", "--limit", "19")[2]  # too few to tell


# 11: labels and class folders


@COMMANDS
@pytest.mark.parametrize("label", [-1, 2, 10**6])
def test_11_labels_outside_the_classes_are_refused_with_their_row(capsys, command, label):
    brightness()
    labels = np.zeros(24, dtype=int)
    labels[3] = label
    np.savez("data.npz", x=images(0, 100), y=labels)
    code, line = refused(capsys, *command)
    assert code == 2
    assert f"data.npz: 3: expected a label from 0 to 1, got {label}" in line


def test_11_class_folders_that_are_no_classes_are_refused_by_name(capsys):
    brightness(classes=["dark", "light"])
    for name in ("dark", "Light"):
        Path("data", name).mkdir(parents=True)
        Image.fromarray(images(0, 9)[0, 0]).save(Path("data", name, "0.png"))
    code, line = refused(capsys, "lipschitz", "model.safetensors", "data")
    assert code == 2
    assert "'dark', 'light'" in line
    assert "got 'Light'" in line


# 12: folds and padding


def dense_norm(module: nn.Module, size: int, shape: tuple[int, ...]) -> float:
    """Return the norm of an affine module from its impulses, a little below."""
    with torch.no_grad():
        module = module.double().eval()
        zero = module(torch.zeros(1, *shape, dtype=torch.float64))
        matrix = (module(torch.eye(size, dtype=torch.float64).reshape(size, *shape)) - zero).reshape(size, -1)
    return float(torch.linalg.matrix_norm(matrix, 2)) * (1 - 1e-12)


@pytest.mark.parametrize("gamma", [2.0, -2.0])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_12_a_batch_norm_keeps_its_eps_and_the_sign_of_gamma(gamma, eps):
    norm = nn.BatchNorm1d(4, eps=eps)
    module = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 2)).eval()
    with torch.no_grad():
        for layer in (module[0], module[2]):
            nn.init.eye_(layer.weight)
        norm.weight.copy_(torch.tensor([gamma, 1.0, -1.0, 0.5]))
        norm.bias.copy_(torch.tensor([1.0, -1.0, 0.3, 0.0]))
        norm.running_var.copy_(torch.tensor([1e-6, 0.01, 1.0, 4.0]))
        norm.running_mean.copy_(torch.tensor([0.5, -0.5, 0.0, 1.0]))
    save(module)
    x = torch.randn(100, 4)
    assert torch.allclose(certify.load("model.safetensors").predict()(x), module(x).detach(), rtol=1e-4, atol=1e-4)
    truth = dense_norm(module, 4, (4,))
    assert truth <= bound_of("model.safetensors") < 1.001 * truth


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_12_every_padding_mode_has_a_rule_that_covers_it(mode):
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode=mode), nn.Flatten(), nn.Linear(32, 2, bias=False))
    save(module, input_shape=(1, 4, 4))
    upper = bound_of("model.safetensors")
    assert dense_norm(module, 16, (1, 4, 4)) <= upper


# 13: tensors and parameters

FILES = {
    "a tensor that is not used": ({"head.weight": (2, 4), "head.bias": (2,), "extra": (3,)}, "extra"),
    "a parameter that is not filled": ({"head.weight": (2, 4)}, "head.bias"),
    "a shape that does not fit": ({"head.weight": (2, 5), "head.bias": (2,)}, "head.weight"),
}


@pytest.mark.parametrize("name", FILES)
def test_13_every_tensor_is_used_and_every_parameter_filled(capsys, name):
    shapes, word = FILES[name]
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, "weights.safetensors")
    Path("net.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.head = nn.Linear(4, 2)\n\n    def forward(self, x):\n        return self.head(x)\n\n"
        "def build():\n    return Net(), {'input_shape': (4,)}\n"
    )
    code, line = refused(capsys, "lipschitz", "weights.safetensors", "--arch", "net.py:build")
    assert code == 2
    assert word in line
    assert "weights.safetensors" in line


def test_13_tied_weights_that_disagree_are_refused(capsys):
    Path("net.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)\n"
        "        self.b.weight = self.a.weight\n\n    def forward(self, x):\n        return self.b(self.a(x))\n\n"
        "def build():\n    return Net(), {'input_shape': (4,)}\n"
    )
    save_file({"a.weight": torch.ones(4, 4), "b.weight": torch.zeros(4, 4)}, "weights.safetensors")
    code, line = refused(capsys, "lipschitz", "weights.safetensors", "--arch", "net.py:build")
    assert code == 2
    assert "'a.weight' and 'b.weight'" in line


# 14: the settings of smoothing

SETTINGS = [
    *(("--alpha", value, "alpha") for value in ("0", "0.5", "1", "-0.1", "nan", "1e-300")),
    *(("--sigma", value, "sigma") for value in ("0", "-1", "nan", "inf", "1e-300", "1e300")),
    *(("--n", value, "n ") for value in ("0", "-1", "1000000001")),
    *(("--n0", value, "n0 ") for value in ("0", "-1", "1000000001")),
    *(("--price", value, "price") for value in ("-1", "nan", "inf", "2")),
]


@pytest.mark.parametrize(("flag", "value", "word"), SETTINGS)
def test_14_settings_without_a_meaning_are_refused_by_name(capsys, flag, value, word):
    brightness()
    np.savez("data.npz", x=images(0, 100), y=np.zeros(24, dtype=int))
    command = ["smooth", "data.npz", *([] if flag == "--sigma" else ["--sigma", "0.25"]), flag, value, "-q"]
    code, line = refused(capsys, *command)
    assert code == 2
    assert word in line


@pytest.mark.parametrize("procedure", ["fixed", "planned"])
def test_14_too_few_draws_name_the_least_number_that_works(capsys, procedure):
    brightness()
    np.savez("data.npz", x=images(0, 50, 2), y=np.zeros(2, dtype=int))
    command = ["smooth", "data.npz", "--sigma", "0.25", "--procedure", procedure, "-q"]
    code, line = refused(capsys, *command, "--n", "2")
    assert code == 2
    least = int(line.rpartition("the smallest n that works is ")[2])
    assert refused(capsys, *command, "--n", least - 1)[0] == 2
    code, out, _ = run(capsys, *command, "--n", least, "--format", "json")
    assert code == 0
    assert all(example["radius"] > 0 for example in json.loads(out)["examples"])
