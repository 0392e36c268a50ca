"""Readings of a whole run against dense Hessians and Jacobians of a tiny network."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from msgspec import UNSET
from msgspec.structs import replace
from torch import Tensor, nn

import certify
from certify.curvature import RitzValue, flip_distances
from certify.errors import InputError
from certify.examples import Dataset
from certify.graph import to_trainable
from certify.loading import read_data
from certify.report import verify_report
from certify.report.certificates_beside import certificates_beside
from certify.results import CurvatureSettings, TopK, report_from_json, report_to_json, seal
from certify.runs import batch_readings
from certify.runs.readings import measure_curvature, start_curvature
from tests.curvature.tiny_runs import SETTINGS, examples, folder, lipschitz, network, readings, smoothed


def dense() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Return the network in float64, its batch, and the Hessian of the mean loss in all weights, by autograd alone."""
    module = network().double()
    x, y = examples()
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    names = [name for name, _ in module.named_parameters()]
    values = [value.detach() for value in module.parameters()]

    def loss(flat: Tensor) -> Tensor:
        parts = [p.reshape(v.shape) for p, v in zip(flat.split([v.numel() for v in values]), values, strict=True)]
        logits = torch.func.functional_call(module, dict(zip(names, parts, strict=True)), (inputs,))
        return F.cross_entropy(logits, labels)

    H = torch.autograd.functional.hessian(loss, torch.cat([value.reshape(-1) for value in values]))
    return module, inputs, labels, H


def test_the_whole_network_is_read_as_its_dense_hessian() -> None:
    *_, H = dense()
    found, values = readings().network, torch.linalg.eigvalsh(H)
    assert found is not None
    assert found.variables == len(H) == 31
    assert found.largest.value <= values[-1].item() * (1.0 + 1e-12)
    assert float((values - found.largest.value).abs().min()) <= found.largest.residual + 1e-12
    assert abs(found.steepest.value) <= values.abs().max().item() * (1.0 + 1e-12)
    for trace in (found.trace, found.trace_plus):
        assert abs(trace.value - torch.trace(H).item()) <= 4.0 * trace.standard_error
    assert (len(found.trace.samples), len(found.trace_plus.samples), len(found.loss_gap.samples)) == (9, 3, 4)


def test_both_ends_of_the_spectrum_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = (RitzValue(1.0, 0.1, 2), RitzValue(-3.0, 0.2, 2))
    monkeypatch.setattr(batch_readings, "largest_eigenvalues", lambda *_, **__: ends)
    found = measure_curvature(folder() / "model.safetensors", folder() / "data.npz", SETTINGS).network
    assert found is not None
    assert (found.largest.value, found.largest.residual) == (1.0, 0.1)
    assert (found.steepest.value, found.steepest.residual) == (-3.0, 0.2)


def test_the_last_layer_is_read_as_its_block_of_the_dense_hessian() -> None:
    module, x, _, H = dense()
    block = H[16:28, 16:28]  # the weight of the last layer, between the first layer and its own bias
    found = readings().last_layer
    assert found is not None
    assert found.module == "2"
    assert found.trace == pytest.approx(torch.trace(block).item(), rel=1e-9)
    assert found.largest.value == pytest.approx(torch.linalg.eigvalsh(block)[-1].item(), rel=1e-9)
    assert found.largest.value <= found.largest_mean
    squares = module[1](module[0](x)).square().sum(1)
    assert found.decay_bound == pytest.approx(0.5 * 0.05**2 * squares.mean().item(), rel=1e-12)


def test_each_example_is_read_as_its_own_jacobian() -> None:
    module, x, labels, _ = dense()
    for example, point, label in zip(readings().examples, x, labels, strict=True):
        J, logits = torch.autograd.functional.jacobian(module, point), module(point).detach()
        wrong = logits.softmax(0) - F.one_hot(label, 3)
        assert example.loss == pytest.approx(F.cross_entropy(logits, label).item(), rel=1e-12)
        assert example.predicted == int(logits.argmax())
        assert example.input_gradient == pytest.approx((J.mT @ wrong).norm().item(), rel=1e-9)
        assert example.jacobian_spectral == pytest.approx(torch.linalg.matrix_norm(J, ord=2).item(), rel=1e-9)
        assert example.jacobian_frobenius == pytest.approx(J.norm().item(), rel=1e-9)


def test_a_flip_of_an_affine_network_is_as_near_as_its_nearest_boundary() -> None:
    torch.manual_seed(0)
    W, b, x = torch.randn(4, 6).double(), torch.randn(4).double(), torch.randn(20, 6).double()
    found = flip_distances(lambda rows: rows @ W.T + b, x)
    logits = x @ W.T + b
    for k, label in enumerate(logits.argmax(1).tolist()):
        others = [j for j in range(4) if j != label]
        exact = min(float((logits[k, label] - logits[k, j]) / (W[label] - W[j]).norm()) for j in others)
        assert exact <= found[k].item()
    assert (found < 3.0).any()


def test_a_flip_has_another_class_stays_in_its_box_and_is_none_where_there_is_none() -> None:
    x = torch.tensor([[0.75]], dtype=torch.float64)

    def step(rows: Tensor) -> Tensor:
        return torch.cat([rows, 0.5 + 0.0 * rows], 1)

    assert flip_distances(step, x).item() == pytest.approx(0.25, rel=1e-4)
    assert flip_distances(step, x, box=(0.6, 1.0)).item() == float("inf")
    assert flip_distances(lambda rows: torch.cat([0 * rows + 1, 0 * rows], 1), x).item() == float("inf")


def test_a_flip_goes_along_the_edge_of_its_box() -> None:
    x = torch.tensor([[0.0, 0.5]], dtype=torch.float64)  # class 0 up to x_1 + 4 x_0 = 0.1, and x_0 cannot fall
    score = torch.tensor([[4.0], [1.0]], dtype=torch.float64)
    found = flip_distances(lambda rows: torch.cat([rows @ score, 0 * rows[:, :1] + 0.1], 1), x, box=(0.0, 1.0))
    assert found.item() == pytest.approx(0.4, rel=1e-4)


def test_the_same_call_gives_the_same_record() -> None:
    again = measure_curvature(folder() / "model.safetensors", folder() / "data.npz", SETTINGS)
    alone = replace(again, beside=readings().beside, table=readings().table, consistency=readings().consistency)
    assert replace(alone, digest="", execution=readings().execution) == replace(readings(), digest="")
    other = measure_curvature(folder() / "model.safetensors", folder() / "data.npz", replace(SETTINGS, seed=1))
    assert other.network != again.network
    assert other.examples == again.examples


def test_a_report_reads_back_and_is_consistent() -> None:
    assert verify_report(readings()) == ()
    text = report_to_json(readings())
    with pytest.raises(InputError, match="which certify nothing"):
        report_from_json(text, name="r")


def test_every_relation_is_looked_at_beside_both_kinds_of_certificates() -> None:
    assert [row.compared for row in readings().consistency] == [7, 7, 7, 7, 7, 1, 7, 1, 7]
    kinds = {row.kind for row in readings().table}
    assert kinds == {
        "proved",
        "proved with probability",
        "exact formula in floating point",
        "estimate",
        "measured",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "expected steps from 1"),
        ({"probes": 5}, "expected probes from 6"),
        ({"pairs": 1}, "expected pairs from 2"),
        ({"sigma": 0.0}, "expected a positive sigma"),
        ({"sigma": float("nan")}, "expected a positive sigma"),
    ],
)
def test_settings_out_of_range(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure_curvature(folder() / "model.safetensors", folder() / "data.npz", replace(SETTINGS, **changes))


def test_a_report_of_another_model_is_refused() -> None:
    model = certify.load(folder() / "other.safetensors")
    data = read_data(folder() / "data.npz", input=model.input, classes=model.classes)
    with pytest.raises(InputError, match="same model beside the readings, got another sha256"):
        start_curvature(model, data, SETTINGS, beside=(lipschitz(),))
    other = replace(model.record, sha256=lipschitz().model.sha256, classes=("a", "b", "c"))
    with pytest.raises(InputError, match="got another classes"):
        certificates_beside(lipschitz(), other, ())


def test_an_input_that_stands_twice_has_its_larger_radius_and_a_bound_that_is_not_proved_is_none() -> None:
    report = lipschitz()
    first = report.examples[0]
    again = replace(first, index=9, id="again", radius=2.0 * first.radius)
    both = replace(report, examples=(first, again), network=replace(report.network, proved=False))
    for one in (both, replace(both, examples=(again, first))):
        found = certificates_beside(one, report.model, readings().examples)
        assert [match.radius for match in found.matched] == [again.radius]
        assert (found.upper, found.lower) == (None, None)
    uncertified = replace(report, examples=(replace(first, radius=0.0, predicted=None, correct=False),))
    assert certificates_beside(uncertified, report.model, readings().examples).matched == ()


@pytest.mark.parametrize(
    ("task", "words"), [(UNSET, "smoothed vote"), (TopK(2), "smoothed vote, among the 2 likeliest")]
)
def test_certificates_of_the_k_likeliest_are_named_so(task, words) -> None:
    report = smoothed()
    report = replace(report, settings=replace(report.settings, task=task))
    assert certificates_beside(report, report.model, ()).object == words


def test_a_report_that_contradicts_itself_is_refused() -> None:
    report = smoothed()
    broken = replace(report, summary=replace(report.summary, abstained=report.summary.abstained + 1))
    with pytest.raises(InputError, match="consistent certificates beside the readings, got summary"):
        measure_curvature(folder() / "model.safetensors", folder() / "data.npz", SETTINGS, beside=(broken,))


def test_without_curvlinops_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    model = certify.load(folder() / "model.safetensors")
    data = read_data(folder() / "data.npz", input=model.input, classes=model.classes)
    with pytest.raises(InputError, match=r"pip install \"certify-nn\[curvature\]\""):
        start_curvature(model, data, SETTINGS)


def test_no_examples() -> None:
    model = certify.load(folder() / "model.safetensors")
    with pytest.raises(InputError, match="at least one example"):
        start_curvature(model, Dataset((), 0, "none"), SETTINGS)


FAST = CurvatureSettings(steps=2, probes=6, pairs=2)


class Attention(nn.Module):
    """Two heads over three tokens; the fast kernel of attention has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(2, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (4,), "ends in relu"),
        (nn.Sequential(nn.Flatten(), nn.ReLU()), (3,), "ends in relu"),
        (Attention(), (3, 2), None),
        (
            nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(3, 3)),
            (2, 4),
            None,
        ),
    ],
    ids=["relu", "no weights", "attention", "conv"],
)
def test_other_networks(module: nn.Module, shape: tuple[int, ...], reason: str | None, tmp_path) -> None:
    torch.manual_seed(0)
    certify.save(module.eval(), tmp_path / "m.safetensors", input_shape=shape)
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(4, *shape)), y=np.arange(4) % 2)
    report = measure_curvature(tmp_path / "m.safetensors", tmp_path / "d.npz", FAST)
    assert verify_report(report) == ()
    assert (report.last_layer is None) == (reason is not None)
    if reason is not None:
        assert reason in report.last_layer_reason
        assert any(row.note == report.last_layer_reason for row in report.table)
    assert (report.network is None) == (not any(True for _ in module.parameters()))


def test_a_network_that_overflows_is_refused_by_the_name_of_the_example(tmp_path) -> None:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.constant_(layer.weight, 1e20)
    certify.save(layer, tmp_path / "m.safetensors", input_shape=(2,))
    np.savez(tmp_path / "d.npz", x=np.full((1, 2), 1e300), y=np.zeros(1, dtype=int))
    with pytest.raises(InputError, match=r"^0: expected finite logits"):
        measure_curvature(tmp_path / "m.safetensors", tmp_path / "d.npz", FAST)


def test_a_weight_used_twice_is_one_variable_and_statistics_are_none() -> None:
    from certify.graph import Graph, Operation

    operations = (
        Operation(name="x", kind="input"),
        Operation(name="a", kind="linear", inputs=("x",), weights={"weight": "W"}),
        Operation(name="n", kind="normalize", inputs=("a",), weights={"mean": "m", "std": "s"}),
        Operation(name="y", kind="linear", inputs=("n",), weights={"weight": "W"}),
    )
    tensors = {"W": torch.eye(2), "m": torch.zeros(2), "s": torch.ones(2)}
    graph = Graph(operations, "y", (2,), tensors)
    module = to_trainable(graph)
    assert [parameter.numel() for parameter in module.parameters()] == [4]
    assert torch.equal(module(torch.ones(1, 2)), torch.ones(1, 2))
    from certify.runs.batch_readings import last_layer_of

    assert "used elsewhere" in str(last_layer_of(graph))


def test_readings_of_sure_answers_to_large_inputs_are_consistent(tmp_path) -> None:
    """Probabilities next to 0 and 1 times squares next to 10^17: what cancels would contradict itself."""
    module = nn.Linear(2, 2).double()
    with torch.no_grad():
        module.weight.copy_(37e-8 * torch.eye(2))
        module.bias.zero_()
    certify.save(module, tmp_path / "m.safetensors", input_shape=(2,))
    x = 1e8 * np.array([[1.0, 0.1], [0.2, 0.9], [1.0, 0.99], [0.3, 0.2]])
    np.savez(tmp_path / "d.npz", x=x, y=x.argmax(1))
    certificates = certify.lipschitz(tmp_path / "m.safetensors", tmp_path / "d.npz", falsify="off")
    found = measure_curvature(tmp_path / "m.safetensors", tmp_path / "d.npz", SETTINGS, beside=(certificates,))
    assert verify_report(found) == ()


@pytest.mark.parametrize(
    "edit", [{"accuracy": 0.9, "upper": 0.95}, {"accuracy": 6 / 7}, {"lower": 0.5}, {"upper": 1.5}, {"confidence": 0.1}]
)
def test_shares_beside_are_possible_ones(edit) -> None:
    """They follow from another report, which is named by its digest; here they can at least not be anything."""
    report = readings()
    shares = list(report.beside[0].certified_accuracy)
    shares[1] = replace(shares[1], **edit)
    edited = replace(report.beside[0], certified_accuracy=tuple(shares))
    found = verify_report(seal(replace(report, beside=(edited, *report.beside[1:]), digest="")))
    assert "beside[0].certified_accuracy" in {finding.where for finding in found}
