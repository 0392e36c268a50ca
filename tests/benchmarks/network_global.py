"""Tables of bounds over all inputs: dense networks, trained convolutional ones, and a ResNet-18."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from certify.bounds import data_floor, slope_floor
from certify.bounds.analysis import analyse
from certify.bounds.covariance.network import CovarianceBound, covariance_bound
from certify.bounds.covariance.optimise import optimise
from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.proof import Proved, prove
from certify.bounds.covariance.starts import start
from certify.bounds.covariance.steps import Plan
from certify.bounds.covariance.trial import Trial
from certify.bounds.facts import Facts, collect_facts
from certify.bounds.gains import Gains, combine_rules, gain_uppers
from certify.graph import Graph, run, trace
from certify.results import Effort, LipschitzSettings
from tests.benchmarks import network_nets as nets
from tests.benchmarks import network_peers as peers

RADII = (0.1, 0.25, 0.5)
IMAGES = {"mnist": 500, "cifar": 300}
# the optimised column of a float64 prototype without rounding verification: normalised inputs, pixels, seconds
PROTOTYPE = {
    "abc_mnist_conv_small_nat": (6.751, 21.91, 7.9),
    "kw_mnist_linf01": (74.45, 74.45, 10.0),
    "mmr_univ_mnist": (77.94, 77.94, 9.8),
    "kw_cifar_small_l2_36_stage0": (3.958, 17.59, 10.0),
    "sdp_cifar_cnn_a_mix": (239.4, 960.2, 13.3),
}


def timed(function: Callable, runs: int = 5) -> tuple:
    """The value and the best time of a few runs, the first of which may load a library; long ones run once."""
    best = float("inf")
    for _ in range(runs):
        begin = time.process_time()
        value = function()
        best = min(best, time.process_time() - begin)
        if best > 2.0:
            break
    return value, best


@dataclass(frozen=True, eq=False)
class Compiled:
    """A network with its facts, its gains by the product of norms, and its plan."""

    graph: Graph
    facts: Facts
    gains: Gains
    plan: Plan

    @property
    def product(self) -> float:
        return self.gains[self.graph.output]

    def proved(self, effort: Effort) -> Proved:
        return prove(self.plan, optimise(self.plan, effort))

    def bound(self, effort: Effort) -> CovarianceBound:
        """What a run with certificates proves over all inputs: of the norm and of every pair of classes."""
        return covariance_bound(self.facts, self.graph.output, "l2", self.gains, effort, pairs=True)

    def equal_start(self) -> float:
        """ECLipsE-Fast's closed form alone, in floating point, as its authors' package computes it."""
        output = start(Trial(self.plan), 0.0).output
        return float(torch.linalg.eigvalsh(output)[..., -1].max().sqrt())

    def product_pairs(self) -> Tensor:
        """||w_i - w_j|| times all other norms."""
        last = self.graph.by_name[self.graph.output]
        W = self.graph.required_weight(last, "weight").double()
        return torch.cdist(W, W) * self.gains[last.inputs[0]]


def compiled(graph: Graph) -> Compiled:
    facts = collect_facts(graph)
    gains = gain_uppers(facts, combine_rules(facts))
    return Compiled(graph, facts, gains, compile_plan(facts, graph.output, "l2", gains))


def show(title: str, rows: Sequence[tuple[str, float | None, float | None, str]], product: float) -> None:
    print(f"\n{title}\n  {'method':52s} {'value':>13s} {'product/it':>11s} {'seconds':>9s}")
    for method, value, seconds, note in rows:
        if value is None:
            print(f"  {method:52s} {'-':>13s} {'':>11s} {'':>9s}  {note}")
            continue
        clock = f"{seconds:9.4f}" if seconds is not None else f"{'':9s}"
        print(f"  {method:52s} {value:13.7g} {product / value:11.3f} {clock}  {note}", flush=True)


def dense_tables(*, lipsdp: bool) -> None:
    """Nets A, E5, E20, P and B: the product, ECLipsE-Fast by its package and by ours, ours optimised, LipSDP on A."""
    peers.eclipse_fast(nets.scaled_layers(2, 2))  # loads the package
    for name, build in nets.DENSE.items():
        if name == "P" and nets.absent():
            print(f"\nP: {nets.absent()}")
            continue
        dense_table(name, build(), lipsdp=lipsdp and name == "A")


def dense_table(name: str, weights: list[Tensor], *, lipsdp: bool) -> None:
    graph = nets.dense_graph(weights)
    net, seconds = timed(lambda: compiled(graph))
    rows = [("product of norms, proved (and the plan)", net.product, seconds, "")]
    eclipse, there = timed(lambda: peers.eclipse_fast(weights))
    rows.append(("ECLipsE-Fast, eclipse-nn", eclipse, there, "" if eclipse else "not installed"))
    ours, here = timed(net.equal_start)
    rows.append(("the same closed form, ours", ours, here, f"{there / here:.1f} x as fast" if eclipse else ""))
    rows.append(("best closed form, proved", *timed(lambda: net.proved("fast").upper()), ""))
    sdp, long = timed(lambda: peers.lipsdp_neuron(weights)) if lipsdp else (None, None)
    for effort in ("default", "max"):
        value, seconds = timed(lambda: net.proved(effort).upper(), 3)  # noqa: B023
        against = f"{long / seconds:.0f} x as fast as LipSDP, {value / sdp - 1:.2%} above" if sdp else ""
        rows.append((f"optimised multipliers, proved, effort {effort}", value, seconds, against))
    if lipsdp:
        rows.append(("LipSDP-Neuron, cvxpy with Clarabel", sdp, long, "" if sdp else "not installed"))
    widths = "-".join(str(W.shape[1]) for W in weights)
    widths = widths if len(weights) < 8 else f"{weights[0].shape[1]}-{weights[1].shape[0]}x{len(weights) - 1}"
    show(f"{name}: {widths}-{weights[-1].shape[0]}", rows, net.product)
    for line in peers.check_peers(nets.product_of_norms(weights), weights, eclipse, sdp):
        print(f"  A PEER IS WRONG: {line}")


def convolution_tables(*, per_pair: bool) -> None:
    """The trained convolutional networks: bounds and floors, then certified accuracy by the bounds of class pairs."""
    if nets.absent():
        print(f"\nconvolutional networks: {nets.absent()}")
        return
    for name in nets.CNNS:
        facts = nets.facts_of(name)
        convolution_table(facts, pixels=False)
        if facts.std != (1.0,):
            convolution_table(facts, pixels=True)
    for name in nets.CNNS:
        certified_table(nets.facts_of(name), per_pair=per_pair)


def convolution_table(facts: nets.Trained, *, pixels: bool) -> None:
    graph = facts.graph(pixels=pixels)
    net, seconds = timed(lambda: compiled(graph), 1)
    rows = [("product of norms, proved (and the plan)", net.product, seconds, "")]
    rows.append(("the closed form of ECLipsE-Fast per frequency", *timed(net.equal_start), "floating point"))
    rows.append(("best closed form, proved", *timed(lambda: net.proved("fast").upper()), ""))
    published = PROTOTYPE[facts.name][1 if pixels else 0]
    for effort in ("default", "max"):
        value, seconds = timed(lambda: net.proved(effort).upper(), 1)  # noqa: B023
        rows.append((f"optimised multipliers, proved, effort {effort}", value, seconds, f"{value / published:.4f}"))
    note = "a prototype in floating point; the last number of the rows above is the ratio to it"
    rows.append(("optimised, published, other machine", published, PROTOTYPE[facts.name][2], note))
    examples = facts.examples(100) if pixels else []
    rows.append(("slope floor, estimate", *timed(lambda: slope_floor(graph), 1), ""))
    rows.append(("data floor, estimate", *timed(lambda: data_floor(graph, examples), 1), ""))
    show(f"{facts.name}, {'[0, 1] pixels' if pixels else 'normalised inputs'}", rows, net.product)


def certified_table(facts: nets.Trained, *, per_pair: bool) -> None:
    net = compiled(facts.graph(pixels=True))
    logits, labels = evaluate(net.graph, facts.examples(IMAGES[facts.dataset]))
    clean = float((logits.argmax(1) == labels).double().mean())
    print(f"\n{facts.name}: certified at l2 {RADII} in pixels, {len(labels)} images, clean {clean:.1%}")
    for method, L, seconds in pair_bounds(net, per_pair=per_pair):
        i, j = torch.triu_indices(10, 10, 1)
        shares = certified_shares(logits, labels, L)
        cells = " ".join(f"{share:6.1%}" for share in shares)
        print(f"  {method:40s} mean L_ij {float(L[i, j].mean()):9.2f}   {cells} {seconds:9.2f} s", flush=True)


def pair_bounds(net: Compiled, *, per_pair: bool) -> Iterator[tuple[str, Tensor, float]]:
    yield "sqrt(2) x product", torch.full((10, 10), 2**0.5 * net.product, dtype=torch.float64), 0.0
    yield "product of norms, last layer per pair", net.product_pairs(), 0.0
    words = {"fast": "closed form for all pairs", "default": "one search for all pairs", "max": "polished per pair"}
    for effort in ("fast", "default", "max") if per_pair else ("fast", "default"):
        found, seconds = timed(lambda: net.bound(effort).pair_uppers, 1)  # noqa: B023
        yield f"{words[effort]}, effort {effort}", found, seconds


def evaluate(graph: Graph, examples: Sequence) -> tuple[Tensor, Tensor]:
    exact = graph.to(torch.float64)
    x = torch.from_numpy(np.stack([example.values() for example in examples]))
    logits = torch.cat([run(exact, part) for part in x.split(100)])
    return logits, torch.tensor([example.label for example in examples])


def certified_shares(logits: Tensor, labels: Tensor, L: Tensor) -> list[float]:
    """Shares of images whose every margin exceeds L_yj R; the rounding of float64 margins is far below the digits."""
    margins = logits.gather(1, labels[:, None]) - logits
    ratios = margins / L[labels]
    ratios.scatter_(1, labels[:, None], torch.inf)
    radius = ratios.amin(1)
    return [float((radius > R).double().mean()) for R in RADII]


def resnet_tables(threads: int) -> None:
    """A ResNet-18 at 3 x 32 x 32, in a process of its own for its peak of memory."""
    for stem in nets.STEMS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(resnet_table, (stem, threads))


def resnet_table(stem: str, threads: int) -> None:
    torch.set_num_threads(threads)
    graph = trace(nets.resnet18(stem), (3, 32, 32))
    before = peak_memory()
    print(f"\nResNet-18, 3 x 32 x 32, stem {stem}, {threads} threads; {before:.2f} GiB before the analysis", flush=True)
    product = None
    for method, effort in (("product", "fast"), ("auto", "fast"), ("auto", "default")):
        begin, worked = time.perf_counter(), time.process_time()
        found = analyse(graph, LipschitzSettings(method=method, effort=effort)).network
        seconds, worked = time.perf_counter() - begin, time.process_time() - worked
        product = product or found.upper
        row = f"{found.upper:13.6g} {product / found.upper:11.1f} {seconds:9.1f} s, {worked:.0f} s of processor"
        words = f"method {method}, effort {effort} (by {found.method})"
        print(f"  {words:52s} {row}, peak {peak_memory():.2f} GiB", flush=True)


def peak_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
