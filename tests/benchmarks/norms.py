"""What a proof of a norm costs: `certify.norms` beside unproved estimates, in one run.

    python tests/benchmarks/norms.py [--large]

Each row: the value, how far it is above the best known value of that map, and the time. Estimates (SVD, power
iteration) may fall below the truth; brackets cannot. Times depend on threads: set OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch.nn import functional

from certify.norms import enclose, enclose_conv

DENSE = [(256, 256), (1024, 1024), (4096, 1024)]
CONVOLUTIONS = [((64, 64, 3, 3), 32), ((256, 256, 3, 3), 14), ((512, 512, 3, 3), 7)]


def gaussian(m, n):
    entries = np.random.default_rng(0).standard_normal((m, n)).astype(np.float32)
    return torch.tensor(entries / np.float32(np.sqrt(n)))


def timed(function):
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def power(apply, adjoint, shape, steps=100):
    v = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        v = adjoint(apply(v / v.norm()))
    return float(apply(v / v.norm()).norm())


def fft_singular_values(kernel, n):
    """The usual estimate of a convolution by its Fourier blocks, in float32, on the grid of side n."""
    blocks = torch.fft.rfft2(kernel, s=(n, n)).permute(2, 3, 0, 1)
    return float(torch.linalg.svdvals(blocks).max())


def show(name, rows, best):
    print(f"\n{name}  (best known lower value {best:.9f})")
    print(f"  {'method':44s} {'value':>16s} {'over':>10s} {'seconds':>9s}")
    for method, value, seconds in rows:
        print(f"  {method:44s} {value:16.9f} {value / best - 1:+10.2e} {seconds:9.3f}")


def dense_case(m, n):
    A = gaussian(m, n)
    found, seconds = timed(lambda: enclose(A))
    rows = [(f"bracket: {found.method}", found.upper, seconds)]
    rows.append(("svdvals float32", *timed(lambda: float(torch.linalg.svdvals(A)[0]))))
    rows.append(("svdvals float64", *timed(lambda: float(torch.linalg.svdvals(A.double())[0]))))
    rows.append(("power iteration, 100 steps", *timed(lambda: power(lambda v: A @ v, lambda y: A.T @ y, n))))
    show(f"dense {m} x {n}", rows, found.lower)


def convolution_case(shape, n):
    torch.manual_seed(0)
    kernel = torch.randn(shape)
    p = shape[-1] // 2
    found, seconds = timed(lambda: enclose_conv(kernel, (n, n), padding=p))
    rows = [(f"bracket: {found.method}", found.upper, seconds)]
    rows.append((f"FFT-SVD float32, N = {n} + {p}", *timed(lambda: fft_singular_values(kernel, n + p))))

    def apply(v):
        return functional.conv2d(v, kernel, padding=p)

    def adjoint(y):
        return functional.conv_transpose2d(y, kernel, padding=p)

    rows.append(("power iteration, 100 steps", *timed(lambda: power(apply, adjoint, (1, shape[1], n, n)))))
    show(f"convolution {shape}, n = {n}, zero padding", rows, found.lower)
    for name, size, mode in (("circular", (n, n), "circular"), ("any size", None, "zeros")):
        whole, seconds = timed(lambda: enclose_conv(kernel, size, padding=p, padding_mode=mode))  # noqa: B023
        show(f"convolution {shape}, n = {n}, {name}", [(f"bracket: {whole.method}", whole.upper, seconds)], whole.lower)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="also a 4096 x 4096 matrix")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for m, n in DENSE + ([(4096, 4096)] if arguments.large else []):
        dense_case(m, n)
    for shape, n in CONVOLUTIONS:
        convolution_case(shape, n)


if __name__ == "__main__":
    main()
