"""What tracing refuses, each by name: an operation that is skipped would be a certificate for another network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.errors import CertifyError, InputError, NoRuleError
from certify.graph import Graph, Operation, check_examples_apart, frozen, trace


class Calling(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.layer = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _unused_unknown(m: Calling, x: Tensor) -> Tensor:
    torch.erfinv(x)
    return m.layer(x)


def _write_to_view(m: Calling, x: Tensor) -> Tensor:
    y = m.layer(x)
    left, right = y.chunk(2, 1)
    F.relu_(left)
    return torch.cat([left, right], 1)


def _write_behind_base(m: Calling, x: Tensor) -> Tensor:
    y = m.layer(x)
    F.relu_(y.view(-1, 2, 3))
    return y


def _write_buffer(m: Calling, x: Tensor) -> Tensor:
    m.norm.running_mean.add_(1)
    return m.norm(x)


REFUSED = {
    "unknown operation": (lambda m, x: torch.erfinv(x), "erfinv"),
    "unknown operation whose result is unused": (_unused_unknown, "erfinv"),
    "exponential": (lambda m, x: x.exp(), "exp"),
    "control flow on data": (lambda m, x: x if x.sum() > 0 else -x, "control flow"),
    "in-place write to one of two views": (_write_to_view, "in place"),
    "in-place write through a view of a value read elsewhere": (_write_behind_base, "in place"),
    "in-place write to the input": (lambda m, x: F.relu_(x), "in place"),
    "buffer written in forward": (_write_buffer, "writes"),
    "two outputs": (lambda m, x: (x, x), "output"),
    "constant output": (lambda m, x: m.layer.weight, "constant"),
    "random": (lambda m, x: x + torch.rand(6), "rand"),
    "random like the input": (lambda m, x: x + torch.randn_like(x), "randn_like"),
    "dropout that stays on": (lambda m, x: F.dropout(x, 0.5, training=True), "random"),
    "batch statistics": (lambda m, x: F.batch_norm(x, None, None, training=True), "statistics of the batch"),
    "softmax over the batch": (lambda m, x: x.softmax(0), "mixes different examples"),
    "mean over the batch": (lambda m, x: x - x.mean(0, keepdim=True), "mixes different examples"),
    "sort over the batch": (lambda m, x: x.sort(0)[0], "mixes different examples"),
    "reversed batch": (lambda m, x: x.flip(0), "row i"),
    "neighbour in the batch": (lambda m, x: x + x.roll(1, 0), "combines different examples"),
    "reshape across the batch": (lambda m, x: x.reshape(6, -1).t(), "batch"),
    "attention over the batch": (
        lambda m, x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0],
        "mixes different examples",
    ),
    "one example of the batch": (lambda m, x: x + x[0], "part of the batch"),
    "half precision inside": (lambda m, x: x.half().float(), "dtype"),
    "integer division": (lambda m, x: torch.div(x, 2, rounding_mode="floor"), "div.Tensor_mode"),
    "sum over everything": (lambda m, x: x - x.sum(), "sum"),
    "indices of a sort": (lambda m, x: x.sort(1)[1].float() + x, "sort"),
    "three-dimensional output": (lambda m, x: x[:, None, None], "output"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    function, words = REFUSED[name]
    with pytest.raises(NoRuleError, match=words):
        trace(Calling(function), (6,))


def test_the_message_names_the_module_path():
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), Calling(lambda m, x: torch.erfinv(x))))
    with pytest.raises(NoRuleError, match=r"erfinv.default at 1\.1"):
        trace(model, (6,))


def test_forward_hooks_and_own_call_are_refused():
    model = nn.Sequential(nn.Linear(6, 6))
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(NoRuleError, match="hooks"):
        trace(model, (6,))

    class Sneaky(nn.Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) * 2

    with pytest.raises(NoRuleError, match="own __call__"):
        trace(Sneaky(6, 6), (6,))


def test_autocast_is_refused():
    with torch.autocast("cpu"), pytest.raises(NoRuleError, match="autocast"):
        trace(nn.Linear(6, 6), (6,))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["weight", "bias", "running_var"])
def test_weights_that_are_not_finite_are_refused_by_name(value, name):
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    part = model[1] if name == "running_var" else model[0]
    with torch.no_grad():
        getattr(part, name).view(-1)[0] = value
    with pytest.raises(InputError, match=rf"\d\.{name}: expected finite"):
        trace(model, (6,))


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(InputError, match="dtype"):
        trace(nn.Linear(6, 6).to(dtype), (6,))


def test_a_wrong_input_shape_is_one_clear_error():
    with pytest.raises(CertifyError):
        trace(nn.Linear(6, 6), (7,))


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], None), ([0.5] * 2, [1.0] * 2), ([0.5], [0.0]), ([0.5], [float("nan")])]
)
def test_bad_normalisation_is_refused(mean, std):
    with pytest.raises(InputError, match="mean"):
        trace(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2), mean=mean, std=std)


def test_the_module_is_not_modified():
    model = nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3)
    ).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, (6,))
    assert model.training
    assert model[1].training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(torch.randn(4, 6)).sum().backward()


def test_older_weight_norm_hooks_become_weights():
    with pytest.warns(FutureWarning):
        layer = torch.nn.utils.weight_norm(nn.Linear(6, 3))
    assert [name for name, _ in frozen(layer).named_parameters()] == ["bias", "weight"]
    layer.eval()
    x = torch.randn(2, 6)
    assert torch.allclose(frozen(layer)(x), layer(x))


def test_train_mode_is_frozen_to_eval_mode():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)).train()
    assert [operation.kind for operation in trace(model, (6,))] == ["input", "linear", "batch_norm"]


GOOD = (
    Operation(name="x", kind="input"),
    Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "w"}),
)


@pytest.mark.parametrize(
    ("operations", "output", "tensors", "words"),
    [
        (GOOD, "z", {"w": torch.ones(2, 3)}, "output"),
        (GOOD, "y", {}, "missing"),
        (GOOD, "y", {"w": torch.ones(2, 3), "v": torch.ones(1)}, "unused"),
        (GOOD[::-1], "y", {"w": torch.ones(2, 3)}, "first operation"),
        ((GOOD[0], GOOD[1], GOOD[1]), "y", {"w": torch.ones(2, 3)}, "twice"),
        ((GOOD[0], Operation(name="y", kind="quack", inputs=("x",))), "y", {}, "vocabulary"),
        ((GOOD[0], Operation(name="y", kind="relu", inputs=("x", "x"))), "y", {}, "inputs"),
        ((GOOD[0], Operation(name="y", kind="relu", inputs=("q",))), "y", {}, "before it is defined"),
        ((GOOD[0], Operation(name="y", kind="relu", inputs=("x",), attributes={"a": 1})), "y", {}, "attributes"),
        ((GOOD[0], Operation(name="y", kind="elu", inputs=("x",), attributes={"alpha": True})), "y", {}, "alpha"),
        (
            (GOOD[0], Operation(name="y", kind="elu", inputs=("x",), attributes={"alpha": float("nan")})),
            "y",
            {},
            "alpha",
        ),
        ((GOOD[0], Operation(name="c", kind="constant", attributes={"value": None})), "c", {}, "exactly one"),
    ],
)
def test_a_graph_that_is_not_whole_is_refused(operations, output, tensors, words):
    with pytest.raises(InputError, match=words):
        Graph(operations, output, (3,), tensors)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"a": 1, "a": 2}', "NaN", '{"format": 2}', "[" * 100 + "]" * 100])
def test_json_that_is_no_graph_is_refused(text):
    with pytest.raises(InputError):
        Graph.from_json(text, {})


def test_shapes_that_do_not_fit_are_refused_with_the_operation():
    graph = Graph(GOOD, "y", (4,), {"w": torch.ones(2, 3)})
    with pytest.raises(InputError, match="linear y"):
        check_examples_apart(graph)


def test_a_constant_equal_to_a_batch_size_does_not_pass_for_the_batch():
    sneaky = Operation(name="y", kind="reshape", inputs=("x",), attributes={"shape": [3, -2]})
    with pytest.raises(NoRuleError, match="row i"):
        check_examples_apart(Graph((GOOD[0], sneaky), "y", (6,), {}))


@pytest.mark.parametrize("dim", [2, 2**40])
def test_a_dimension_that_is_not_there_is_refused(dim):
    attributes = {"dim": dim, "start": 0, "stop": 1, "step": 1}
    sliced = Operation(name="y", kind="slice", inputs=("x",), attributes=attributes)
    with pytest.raises(InputError, match="slice y"):
        check_examples_apart(Graph((GOOD[0], sliced), "y", (6,), {}))


def test_giant_values_are_refused_before_anything_runs():
    giant = Operation(name="y", kind="expand", inputs=("x",), attributes={"shape": [2**20, 2**15, -1, 6]})
    with pytest.raises(InputError, match="elements"):
        check_examples_apart(Graph((GOOD[0], giant), "y", (6,), {}))
