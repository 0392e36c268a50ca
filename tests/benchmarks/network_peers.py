"""What others compute, run here: ECLipsE-Fast, LipSDP-Neuron, and CROWN; and what they published where they cannot run.

Each peer is optional (`pip install -e ".[benchmark]"`; auto_LiRPA besides): its function returns None where it is not
installed. `check_peers` compares their answers with values known in closed form.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import types
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

BISECTIONS = 10


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def eclipse_fast(weights: Sequence[Tensor]) -> float | None:
    """ECLipsE-Fast (NeurIPS 2024) for slopes in [0, 1], by its authors' package."""
    if not installed("eclipse_nn"):
        return None
    from eclipse_nn.LipConstEstimator import LipConstEstimator

    return float(LipConstEstimator(weights=list(weights)).estimate(method="ECLipsE_Fast"))


def eclipse_local(weights: Sequence[Tensor], biases: Sequence[Tensor], centre: Tensor, radius: float) -> float | None:
    """ECLipsE-Gen-Local in closed form: the Lipschitz constant on the l2 ball of a radius around a centre.

    Its three other modes need a solver of semidefinite programs and are not run.
    """
    if not installed("eclipse_nn"):
        return None
    from eclipse_nn.LipConstEstimator import LipConstEstimator

    estimator = LipConstEstimator(weights=list(weights), biases=[bias[:, None] for bias in biases])
    with contextlib.redirect_stdout(io.StringIO()):
        value, _, failed = estimator.estimate_gen_local(centre.reshape(-1, 1).double(), radius, algo="CF")
    return None if failed else value


def lipsdp_neuron(weights: Sequence[Tensor]) -> float | None:
    """LipSDP-Neuron (NeurIPS 2019) for ReLU: the semidefinite program as published, by Clarabel.

    Minimise r such that, for x = (x_0, ..., x_L-1) with x_k = relu(W_k x_k-1) and multipliers T >= 0 per neuron,

        |W_L x_L-1|^2 - r |x_0|^2 + 2 sum over neurons of T_j x_j (W x - x)_j  <=  0   for all x.
    """
    if not installed("cvxpy") or not installed("clarabel"):
        return None
    import cvxpy

    Ws = [W.numpy() for W in weights]
    sizes = [Ws[0].shape[1], *(W.shape[0] for W in Ws[:-1])]
    inputs, neurons = sizes[0], sum(sizes[1:])
    B = np.hstack([np.zeros((neurons, inputs)), np.eye(neurons)])
    A = np.zeros((neurons, inputs + neurons))
    for k, W in enumerate(Ws[:-1]):
        row, column = sum(sizes[1 : k + 1]), sum(sizes[:k])
        A[row : row + W.shape[0], column : column + W.shape[1]] = W
    last = np.zeros((inputs + neurons,) * 2)
    last[-sizes[-1] :, -sizes[-1] :] = Ws[-1].T @ Ws[-1]
    first = np.zeros_like(last)
    first[:inputs, :inputs] = np.eye(inputs)
    T, r = cvxpy.Variable(neurons, nonneg=True), cvxpy.Variable(nonneg=True)
    cross = A.T @ cvxpy.diag(T) @ B
    matrix = last - r * first + cross + cross.T - 2 * B.T @ cvxpy.diag(T) @ B
    problem = cvxpy.Problem(cvxpy.Minimize(r), [matrix << 0])
    problem.solve(solver="CLARABEL")
    return float(r.value) ** 0.5 if problem.status == "optimal" else None


def load_lirpa() -> types.ModuleType | None:
    """auto_LiRPA, or None. Version 0.3 (the last on the package index) meets a newer torch and numpy half-way here."""
    if not installed("auto_LiRPA"):
        return None
    import torch.onnx.symbolic_helper as symbolic

    if not hasattr(symbolic, "_set_opset_version"):
        symbolic._set_opset_version = lambda version: None
        torch._C.Node.__getitem__ = lambda node, key: getattr(node, node.kindOf(key))(key)
        moved = types.ModuleType("numpy.lib.arraysetops")
        moved.isin = np.isin
        sys.modules[moved.__name__] = moved
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("auto_LiRPA")


class Crown:
    """auto_LiRPA's CROWN around one input: the largest l2 or linf radius at which no other class can win."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.lirpa = load_lirpa()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.bounded = self.lirpa.BoundedModule(net, torch.empty_like(x))

    def wins(self, x: Tensor, label: int, radius: float, norm: float) -> bool:
        others = [j for j in range(10) if j != label]
        C = torch.zeros(1, 9, 10)
        C[0, :, label] = 1.0
        C[0, range(9), others] = -1.0
        ball = self.lirpa.perturbations.PerturbationLpNorm(norm=norm, eps=radius)
        found = self.lirpa.BoundedTensor(x, ball)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lower, _ = self.bounded.compute_bounds(x=(found,), C=C, method="CROWN", bound_upper=False)
        return bool((lower > 0).all())

    def radius(self, x: Tensor, label: int, most: float, norm: float = 2.0) -> float:
        """Bisection between 0 and ``most``."""
        low, high = 0.0, most
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.wins(x, label, middle, norm) else (low, middle)
        return low


@dataclass(frozen=True)
class Published:
    """A figure that was measured elsewhere: another machine, often a quieter one, and one thread unless stated."""

    value: float
    seconds: float | None = None


def check_peers(product: float, weights: Sequence[Tensor], eclipse: float | None, lipsdp: float | None) -> list[str]:
    """Return what is wrong with the peers' answers on one dense network, to be printed: nothing, usually.

    ECLipsE-Fast has the closed form P = l^2 (2 l I - M)^-1, l = lmax(M) (computed here the plain way); LipSDP's optimum
    lies between the norm of the product matrix (all slopes 1) and that.
    """
    P = torch.eye(weights[0].shape[1], dtype=torch.float64)
    linear = P
    for W in weights[:-1]:
        M = W @ P @ W.mT
        largest = torch.linalg.eigvalsh(M)[-1]
        P = largest**2 * torch.linalg.inv(2 * largest * torch.eye(len(M), dtype=torch.float64) - M)
        linear = W @ linear
    closed = float(torch.linalg.eigvalsh(weights[-1] @ P @ weights[-1].mT)[-1].sqrt())
    linear_norm = float(torch.linalg.matrix_norm(weights[-1] @ linear, 2))
    wrong = []
    if eclipse is not None and not abs(eclipse / closed - 1) < 1e-6:
        wrong.append(f"eclipse-nn gives {eclipse}, its closed form is {closed}")
    if not linear_norm * (1 - 1e-9) <= closed <= product * (1 + 1e-9):
        wrong.append(f"the closed form {closed} is outside [{linear_norm}, {product}]")
    if lipsdp is not None and not linear_norm * (1 - 1e-4) <= lipsdp <= closed * (1 + 1e-4):
        wrong.append(f"LipSDP gives {lipsdp}, outside [{linear_norm}, {closed}]")
    return wrong
