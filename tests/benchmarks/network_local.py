"""Tables of what is proved around one input: local Lipschitz constants, and certified radii of trained networks."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from certify.bounds import analyse, certify_examples
from certify.bounds.facts import collect_facts
from certify.bounds.local.chain import chain_of
from certify.bounds.local.constants import local_constants
from certify.examples import Example
from certify.graph import Graph, trace
from certify.results import LipschitzExample, LipschitzSettings
from tests.benchmarks import network_nets as nets
from tests.benchmarks import network_peers as peers
from tests.benchmarks.network_global import evaluate
from tests.benchmarks.network_peers import Published

RADII = (0.1, 0.25, 0.5, 1.0)
GREY = 1 / 255
NO_BALL = 1e-9  # stands for the radius 0, where the constant is the norm of one Jacobian
CERTIFIED = (nets.MLP, *nets.CNNS[:4])
MOST = 4.0  # no attack needs more on the first images


@dataclass(frozen=True)
class Quoted:
    """One published row: a network, a radius, and figures of a peer and of our own prototype."""

    net: str
    radius: float
    peer: Published
    prototype: Published


NETS: dict[str, Callable[[], tuple[nn.Sequential, Tensor]]] = {"example": nets.example_net, "MLP": nets.mlp_net}
LINF = (
    Quoted("example", 0.0, Published(1.219862, 3.6), Published(1.219862)),
    Quoted("example", GREY, Published(1.554075, 3.5), Published(1.476294, 2.6)),
    Quoted("example", 4 * GREY, Published(4.328381, 5.1), Published(1.941665, 1.9)),
    Quoted("MLP", GREY, Published(9.691689, 7.2), Published(3.698687, 4.4)),
    Quoted("MLP", 4 * GREY, Published(57.919987, 5.6), Published(5.641544, 3.8)),
)
NO_PEER = Published(float("nan"))
L2 = (
    Quoted("example", GREY, NO_PEER, Published(0.153579, 0.02)),
    Quoted("example", 4 * GREY, NO_PEER, Published(0.161720, 0.04)),
    Quoted("example", 192**0.5 * GREY, NO_PEER, Published(0.164629, 0.08)),
    Quoted("example", 4 * 192**0.5 * GREY, NO_PEER, Published(0.202953, 0.39)),
    Quoted("MLP", GREY, NO_PEER, Published(0.142022)),
    Quoted("MLP", 4 * GREY, NO_PEER, Published(0.143613)),
)
EFFORTS = ("fast", "default", "max")


def local_linf_table(_: argparse.Namespace) -> None:
    """The norm from linf to linf on a linf ball: the largest over ten logits."""
    print("\nLipschitz constant on a linf ball, linf to linf (published figures: other machine, auto_LiRPA 0.7.1)")
    for quoted in LINF:
        net, x = NETS[quoted.net]()
        print(f"  {quoted.net}, radius {quoted.radius:.6f}")
        row("interval arithmetic on the Jacobian, here", *timed(lambda: interval_jacobian(net, x, quoted.radius)))  # noqa: B023
        row("auto_LiRPA, published", quoted.peer.value, quoted.peer.seconds)
        row("recursion, floating point, published", quoted.prototype.value, quoted.prototype.seconds)
        for effort in EFFORTS:
            row(f"ours, proved, effort {effort}", *local_constant(net, x, quoted.radius, "linf", effort))


def local_l2_table(_: argparse.Namespace) -> None:
    """The norm from l2 to l2 on an l2 ball."""
    print("\nLipschitz constant on an l2 ball (published figures: other machine)")
    for quoted in L2:
        net, x = NETS[quoted.net]()
        W = [layer.weight.detach().double() for layer in net if isinstance(layer, nn.Linear)]
        b = [layer.bias.detach().double() for layer in net if isinstance(layer, nn.Linear)]
        print(f"  {quoted.net}, radius {quoted.radius:.6f}")
        row("eclipse-nn, ECLipsE-Gen-Local CF, here", *timed(lambda: peers.eclipse_local(W, b, x, quoted.radius)))  # noqa: B023
        row("recursion, 40 iterations, floating point, published", quoted.prototype.value, quoted.prototype.seconds)
        for effort in EFFORTS:
            row(f"ours, proved, effort {effort}", *local_constant(net, x, quoted.radius, "l2", effort))


def timed(function: Callable[[], float | None]) -> tuple[float | None, float]:
    """The value and the time of the second call: the first may load a library."""
    function()
    begin = time.process_time()
    return function(), time.process_time() - begin


def row(method: str, value: float | None, seconds: float | None) -> None:
    clock = "" if seconds is None else f"{seconds:9.3f} s"
    print(f"    {method:52s} {'-' if value is None else f'{value:.6f}':>13s} {clock}", flush=True)


def local_constant(net: nn.Module, x: Tensor, radius: float, norm: str, effort: str) -> tuple[float, float]:
    """Our constant on one ball, and how long it took from the graph on."""
    graph = trace(net.float().eval(), tuple(x.shape[1:]))
    begin = time.process_time()
    chain = chain_of(collect_facts(graph), graph.output)
    found = local_constants(chain, x[0].double(), max(radius, NO_BALL), norm, effort)
    return found.upper, time.process_time() - begin


def interval_jacobian(net: nn.Sequential, x: Tensor, radius: float) -> float:
    """Intervals of every value, and of the Jacobian from the input on (tighter than backwards): centres and radii."""
    z, r = x.double().flatten(), torch.full((x.numel(),), radius, dtype=torch.float64)
    C, R = torch.eye(len(z), dtype=torch.float64), torch.zeros(len(z), len(z), dtype=torch.float64)
    for layer in net:
        if isinstance(layer, nn.Linear):
            W = layer.weight.detach().double()
            z, r, C, R = W @ z + layer.bias.detach().double(), W.abs() @ r, W @ C, W.abs() @ R
        if isinstance(layer, nn.ReLU):
            low, high = (z - r > 0).double()[:, None], (z + r > 0).double()[:, None]
            ends = torch.stack([slope * end for slope in (low, high) for end in (C - R, C + R)])
            C, R = (ends.amax(0) + ends.amin(0)) / 2, (ends.amax(0) - ends.amin(0)) / 2
            lower, upper = (z - r).clamp(min=0), (z + r).clamp(min=0)
            z, r = (lower + upper) / 2, (upper - lower) / 2
    return float((C.abs() + R).sum(1).max())


# mean radius, seconds per image: CROWN and alpha-CROWN of auto_LiRPA (a050a3d), and the best column of our prototype
QUOTED = {
    nets.MLP: (Published(0.358, 0.014), Published(0.365, 1.39), Published(0.4545, 0.078)),
    "abc_mnist_conv_small_nat": (Published(0.473, 0.30), Published(0.463, 11.8), Published(0.736, 1.76)),
    "kw_mnist_linf01": (Published(0.152, 0.49), Published(0.159, 11.0), Published(0.292, 2.2)),
    "mmr_univ_mnist": (Published(0.510, 0.36), Published(0.528, 6.2), Published(0.653, 2.5)),
    "kw_cifar_small_l2_36_stage0": (Published(0.169, 0.48), Published(0.240, 20.0), Published(0.288, 3.3)),
}
BEST_SHARES = {
    nets.MLP: "96/90/40/0",
    "abc_mnist_conv_small_nat": "98/96/90/12",
    "kw_mnist_linf01": "98/84/0/0",
    "mmr_univ_mnist": "100/100/92/2",
    "kw_cifar_small_l2_36_stage0": "56/52/26/0",
}


def certificate_tables(asked: argparse.Namespace) -> None:
    """Certified l2 radii of the first test images in [0, 1] pixels; a wrong prediction counts as radius 0."""
    if nets.absent():
        print(f"\ncertificates: {nets.absent()}")
        return
    for name in CERTIFIED:
        facts = nets.facts_of(name)
        certificate_table(facts, facts.examples(asked.images), crown=not asked.no_crown)


def certificate_table(facts: nets.Trained, examples: Sequence[Example], *, crown: bool) -> None:
    graph = facts.graph(pixels=True)
    logits, labels = evaluate(graph, examples)
    right = (logits.argmax(1) == labels).numpy()
    print(
        f"\n{facts.name}: l2 radii in pixels of {len(examples)} images, {right.mean():.1%} of them classified correctly"
    )
    if crown and peers.installed("auto_LiRPA"):
        begin = time.process_time()
        radii = crown_radii(facts, examples, labels) * right
        radii_row("auto_LiRPA 0.3, CROWN, here (float32)", radii, (time.process_time() - begin) / len(examples))
    published = zip(("CROWN", "alpha-CROWN", "our prototype's best"), QUOTED[facts.name], strict=True)
    for method, quoted in published:
        shares = BEST_SHARES[facts.name] if "best" in method else ""
        print(
            f"  {f'{method}, published':40s} {quoted.value:8.4f}   {shares:>16s} {'':15s} {quoted.seconds:8.3f} s/image"
        )
    for effort in EFFORTS:
        for words, radii, seconds in our_radii(graph, examples, effort):
            radii_row(f"ours, proved, effort {effort}{words}", radii, seconds)
            above = attacked_above(facts, examples, radii)
            if above:
                print(f"  UNSOUND: {above} radii are above the distance of an attack")


def our_radii(graph: Graph, examples: Sequence[Example], effort: str) -> Iterator[tuple[str, np.ndarray, float]]:
    settings = LipschitzSettings(effort=effort)
    begin = time.process_time()
    analysis = analyse(graph, settings, pairs=True)
    once = time.process_time() - begin
    found: list[LipschitzExample] = list(certify_examples(analysis, examples, settings))
    seconds = (time.process_time() - begin - once) / len(examples)
    yield f" (+{once:.1f} s once)", np.array([example.radius * example.correct for example in found]), seconds


def crown_radii(facts: nets.Trained, examples: Sequence[Example], labels: Tensor) -> np.ndarray:
    """Bisection on normalised inputs: inside the model, auto_LiRPA carries no l2 ball through subtraction and division.

    One standard deviation for all channels: a ball of radius r in pixels is one of r / std there.
    """
    (std,) = set(facts.std)
    mean = torch.tensor(facts.mean)[:, None, None]
    x = (torch.from_numpy(np.stack([example.values() for example in examples])).float() - mean) / std
    crown = peers.Crown(nets.trained(facts.name), x[:1])
    found = [crown.radius(x[k : k + 1], int(labels[k]), MOST / std) * std for k in range(len(x))]
    return np.array(found)


def attacked_above(facts: nets.Trained, examples: Sequence[Example], radii: np.ndarray) -> int:
    distances = facts.attack_distances()
    pairs = zip(examples, radii, strict=True)
    return sum(radius > distances.get(int(example.id), np.inf) * (1 + 1e-5) for example, radius in pairs)


def radii_row(method: str, radii: np.ndarray, seconds: float) -> None:
    shares = "/".join(f"{100 * np.mean(radii >= R):.0f}" for R in RADII)
    print(f"  {method:40s} {radii.mean():8.4f}   {shares:>16s} {'':15s} {seconds:8.3f} s/image", flush=True)
