"""What a proof of a norm costs: `certify.norms` beside what is usually run on the same layer, in one table.

    OMP_NUM_THREADS=2 python tests/benchmarks/norms.py [--large] [--exact] [--resnet18]

Each row: the value, how far it is above the best known lower value of that map, the best time of a few runs, and the
time of the bracket divided by it. Only brackets are proved: estimates (SVD, power iteration, the reference Gram
iteration in float32) may fall below the truth, or bound another map (circular for zero padding).
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from certify.norms import (
    THOROUGH_OPERATIONS,
    enclose,
    enclose_conv,
    gram_bound,
    gram_bound_conv,
    gram_upper,
    gram_upper_conv,
)
from certify.norms.symbol import polyphase
from certify.results import Bracket

DENSE = [(256, 256), (1024, 1024), (4096, 1024)]
CONVOLUTIONS = [((64, 64, 3, 3), 32), ((256, 256, 3, 3), 14), ((512, 512, 3, 3), 7)]
EXACT = [((32, 16, 3, 3), 32), ((64, 64, 3, 3), 14), ((32, 32, 3, 3), 32)]
STRIDED = [((64, 3, 7, 7), 224, 2), ((128, 64, 3, 3), 56, 2), ((512, 256, 3, 3), 14, 2)]
MOST_EXACT = 2.0e12
RUNS = 3
LONG = 3.0  # seconds: what takes longer runs once

# torchvision's ResNet-18 for 3 x 224 x 224: name, kernel, input side, stride, padding, how many such layers
RESNET18 = [
    ("conv1", (64, 3, 7, 7), 224, 2, 3, 1),
    ("layer1 3x3", (64, 64, 3, 3), 56, 1, 1, 4),
    ("layer2 first", (128, 64, 3, 3), 56, 2, 1, 1),
    ("layer2 shortcut", (128, 64, 1, 1), 56, 2, 0, 1),
    ("layer2 3x3", (128, 128, 3, 3), 28, 1, 1, 3),
    ("layer3 first", (256, 128, 3, 3), 28, 2, 1, 1),
    ("layer3 shortcut", (256, 128, 1, 1), 28, 2, 0, 1),
    ("layer3 3x3", (256, 256, 3, 3), 14, 1, 1, 3),
    ("layer4 first", (512, 256, 3, 3), 14, 2, 1, 1),
    ("layer4 shortcut", (512, 256, 1, 1), 14, 2, 0, 1),
    ("layer4 3x3", (512, 512, 3, 3), 7, 1, 1, 3),
]


def gaussian(m, n):
    entries = np.random.default_rng(0).standard_normal((m, n)).astype(np.float32)
    return torch.tensor(entries / np.float32(np.sqrt(n)))


def timed(function, runs=RUNS):
    """The value and the best time of a few runs; long ones run once."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        value = function()
        best = min(best, time.perf_counter() - start)
        if best > LONG:
            break
    return value, best


def power(apply, adjoint, shape, steps=100):
    v = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        v = adjoint(apply(v / v.norm()))
    return float(apply(v / v.norm()).norm())


def gram_reference(G, steps):
    """The reference Gram iteration (arXiv 2305.16173) in the precision of G ``[B, m, n]``: a plain loop, no proof."""
    G = G.mT if G.shape[1] < G.shape[2] else G
    log = torch.zeros(len(G))
    for _ in range(steps):
        norm = frobenius(G)
        log = 2 * (log + norm.log())
        G = G / norm[:, None, None]
        G = G.mH @ G
    return float(((log + frobenius(G).log()) / 2.0**steps).exp().max())


def frobenius(G):
    real = torch.view_as_real(G.resolve_conj()) if G.is_complex() else G
    return torch.linalg.vector_norm(real.flatten(1), dim=1)


def fourier_blocks(kernel, n):
    """The blocks of a convolution on the grid of side n, in float32, as the reference codes compute them."""
    return torch.fft.rfft2(kernel, s=(n, n)).permute(2, 3, 0, 1).flatten(0, 1)


def side_by_side(functions, runs=RUNS):
    """The value of each function and its best time of a few runs, in turns: a busy moment meets them all."""
    values, best = {}, dict.fromkeys(functions, float("inf"))
    for turn in range(runs):
        for name, function in functions.items():
            if turn and best[name] > LONG:
                continue
            values[name], seconds = timed(function, 1)
            best[name] = min(best[name], seconds)
    return {name: (values[name], best[name]) for name in functions}


def show(name, results, best):
    """One table; a bracket is named by its proof and shown by its upper end."""
    _, bracket = next(iter(results.values()))
    print(f"\n{name}  (best known lower value {best:.9f}, load {os.getloadavg()[0]:.1f})")
    print(f"  {'method':50s} {'value':>14s} {'over':>10s} {'seconds':>9s} {'ratio':>7s}")
    for method, (value, seconds) in results.items():
        if isinstance(value, Bracket):
            method, value = f"{method}: {value.method}", value.upper
        print(f"  {method:50s} {value:14.9f} {value / best - 1:+10.2e} {seconds:9.3f} {bracket / seconds:7.2f}")


def dense_case(m, n):
    A = gaussian(m, n)
    functions = {
        "bracket": lambda: enclose(A),
        "matrix_norm(ord=2) float32": lambda: float(torch.linalg.matrix_norm(A, ord=2)),
        "reference Gram, 8 steps, float32": lambda: gram_reference(A[None], 8),
        "power iteration, 100 steps": lambda: power(lambda v: A @ v, lambda y: A.T @ y, n),
        "gram_bound, 8 steps, float32: no proof": lambda: float(gram_bound(A, 8)),
        "gram_upper, 8 steps: proved": lambda: gram_upper(A, 8),
    }
    results = side_by_side(functions)
    show(f"dense {m} x {n}", results, results["bracket"][0].lower)


def convolution_case(shape, n, exact):
    torch.manual_seed(0)
    kernel = torch.randn(shape)
    p = shape[-1] // 2

    def bracket(most=None):
        more = {} if most is None else {"most_operations": most}
        return enclose_conv(kernel, (n, n), padding=p, **more)

    def blocks():
        return fourier_blocks(kernel, n + p)

    def apply(v):
        return functional.conv2d(v, kernel, padding=p)

    def adjoint(y):
        return functional.conv_transpose2d(y, kernel, padding=p)

    functions = {
        "bracket": bracket,
        f"FFT-SVD float32, N = {n} + {p}": lambda: float(torch.linalg.svdvals(blocks()).max()),
        f"reference Gram on FFT, 6 steps, N = {n} + {p}": lambda: gram_reference(blocks(), 6),
        "gram_bound_conv, 6 steps, float32: no proof": lambda: float(gram_bound_conv(kernel, (n, n), padding=p)),
        "gram_upper_conv, 6 steps: proved": lambda: gram_upper_conv(kernel, (n, n), padding=p),
        "power iteration, 100 steps": lambda: power(apply, adjoint, (1, shape[1], n, n)),
        "bracket, thorough": lambda: bracket(THOROUGH_OPERATIONS),
    }
    if exact:
        functions[f"bracket, {MOST_EXACT:.0e} operations"] = lambda: bracket(MOST_EXACT)
    results = side_by_side(functions)
    for name, size, mode in (("circular", (n, n), "circular"), ("any size", None, "zeros")):
        whole, seconds = timed(lambda: enclose_conv(kernel, size, padding=p, padding_mode=mode))  # noqa: B023
        results[f"{name}, over its own lower value {whole.lower:.6f}"] = whole.upper, seconds
    best = max(value.lower for value, _ in results.values() if isinstance(value, Bracket))
    show(f"convolution {shape}, n = {n}, zero padding", results, best)


def strided_case(shape, n, stride):
    """A strided convolution, beside the SVD of its polyphase blocks (those of stride 1 belong to another map)."""
    torch.manual_seed(0)
    kernel = torch.randn(shape)
    p = shape[-1] // 2
    phases = polyphase(kernel[None], (stride, stride), (1, 1))[0]
    side = -(-(n + p) // stride)

    def blocks():
        return fourier_blocks(phases, side)

    functions = {
        "bracket": lambda: enclose_conv(kernel, (n, n), stride=stride, padding=p),
        f"FFT-SVD float32 of the phases, N = {side}": lambda: float(torch.linalg.svdvals(blocks()).max()),
        f"reference Gram on FFT, 6 steps, N = {side}": lambda: gram_reference(blocks(), 6),
        "gram_upper_conv, 6 steps: proved": lambda: gram_upper_conv(kernel, (n, n), stride=stride, padding=p),
    }
    results = side_by_side(functions)
    show(f"convolution {shape}, n = {n}, stride {stride}, zero padding", results, results["bracket"][0].lower)


def resnet18():
    """Every layer of a ResNet-18 with seeded random weights."""
    print(f"\nResNet-18, 3 x 224 x 224\n  {'layer':18s} {'method':34s} {'upper':>12s} {'width':>9s} {'seconds':>8s}")
    begin = time.perf_counter()
    for j, (name, shape, n, stride, padding, count) in enumerate(RESNET18):
        for k in range(count):
            generator = torch.Generator().manual_seed(100 * j + k)
            kernel = torch.randn(shape, generator=generator) * (2.0 / (shape[0] * shape[2] * shape[3])) ** 0.5
            found, seconds = timed(lambda: enclose_conv(kernel, (n, n), stride=stride, padding=padding), 1)  # noqa: B023
            width = found.upper / found.lower - 1.0
            print(f"  {name:18s} {found.method:34s} {found.upper:12.6f} {width:9.1e} {seconds:8.2f}")
    found, seconds = timed(lambda: enclose(gaussian(1000, 512)), 1)
    print(f"  {'fc':18s} {found.method:34s} {found.upper:12.6f} {found.upper / found.lower - 1:9.1e} {seconds:8.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - begin
    print(f"  whole network: {seconds:.1f} s, peak memory of the process {peak:.2f} GiB, load {os.getloadavg()[0]:.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also a 4096 x 4096 matrix")
    parser.add_argument("--exact", action="store_true", help="also the banded proofs that take up to a minute")
    parser.add_argument("--resnet18", action="store_true", help="only the layers of a ResNet-18")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    if arguments.resnet18:
        return resnet18()
    for m, n in DENSE + ([(4096, 4096)] if arguments.large else []):
        dense_case(m, n)
    for shape, n in CONVOLUTIONS + EXACT:
        convolution_case(shape, n, arguments.exact)
    for shape, n, stride in STRIDED:
        strided_case(shape, n, stride)
    return None


if __name__ == "__main__":
    main()
