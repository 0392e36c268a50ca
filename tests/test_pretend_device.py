"""The pretend device notices what it is there to notice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.pretend_device import DEVICE, UNREADY, PretendDevice, pretend_device

MIXES: dict[str, Callable[[torch.Tensor], object]] = {
    "sum": lambda x: x + torch.ones(3),
    "product": lambda x: torch.ones(2, 3) @ x,
    "stack": lambda x: torch.stack([x[0], torch.ones(3)]),
    "index of the host": lambda x: x[torch.tensor([0, 1])],
    "rows put into a tensor of the host": lambda x: torch.zeros(3).index_copy_(0, torch.tensor([0]), x[0, :1]),
    "weight of the host": lambda x: torch.nn.functional.linear(x, torch.ones(2, 3)),
    "thresholds of the host": lambda x: torch.searchsorted(torch.tensor([0.5]), x),
    "generator of the host": lambda x: torch.randn(
        3, dtype=torch.float64, device=DEVICE, generator=torch.Generator().manual_seed(3)
    ),
    "no generator": lambda x: torch.randn(3, dtype=torch.float64, device=DEVICE),
    "read as an array": lambda x: x.numpy(),
    "read as a list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("mixed", MIXES.values(), ids=MIXES)
def test_a_mix_of_device_and_host_is_refused(mixed):
    with pretend_device():
        x = torch.ones(3, 3).to(DEVICE)
        assert (x @ x + 1.0).sum().cpu() == 36.0
        with pytest.raises((RuntimeError, TypeError)):
            mixed(x)


def test_what_crosses_the_border_is_counted():
    with pretend_device() as device:
        x = torch.arange(4.0).to(DEVICE)
        y = torch.tensor([1.0, 2.0], device=DEVICE)
        assert (device.to_device, device.to_host, device.reads) == (2, 0, 0)
        assert float(x.sum()) == 6.0
        assert bool((y > 0).all())
        assert x.cpu().tolist() == [0.0, 1.0, 2.0, 3.0]
        assert (device.to_device, device.to_host, device.reads) == (2, 1, 2)


def test_a_copy_that_nobody_waits_for_has_not_arrived():
    with pretend_device():
        x, done = torch.arange(3).to(DEVICE), torch.cuda.Event()
        early, late = (x.to("cpu", non_blocking=True) for _ in range(2))
        done.record()
        assert early.tolist() == [UNREADY] * 3
        done.synchronize()
        assert early.tolist() == late.tolist() == [0, 1, 2]


def test_a_stream_of_random_numbers_is_a_function_of_all_64_bits_of_the_seed():
    def drawn(seed: int) -> list[int]:
        generator = torch.Generator(device=DEVICE).manual_seed(seed)
        return torch.empty(4, dtype=torch.int64, device=DEVICE).random_(generator=generator).cpu().tolist()

    with pretend_device() as device:
        assert drawn(5) == drawn(5) != drawn(5 + 2**32)
        assert min(drawn(2**63 - 1)) >= 0
        assert device.draws[0] == (5, "aten::random_", (4,))


def test_memory_ends_where_it_is_told_to():
    with pretend_device() as device:
        x = torch.ones(10).to(DEVICE)
        device.largest = 40
        assert len(x + x) == 10
        with pytest.raises(torch.OutOfMemoryError):
            torch.cat([x, x])
        assert device.refused == 1


def test_linear_algebra_and_indexing_stay_on_the_device_and_give_the_numbers_of_the_host():
    def computed(x: torch.Tensor) -> list[torch.Tensor]:
        gram = (x @ x.mT + torch.eye(3, dtype=x.dtype, device=x.device)).to(torch.complex128)
        factor, failed = torch.linalg.cholesky_ex(gram * (1 + 0.0j))
        values, vectors = torch.linalg.eigh(gram)
        picked = torch.arange(3, device=x.device)[1:]
        kept = gram[picked[:, None], picked].conj()
        kept = torch.view_as_real(kept.mT.resolve_conj())
        votes = torch.bincount(x.softmax(1).argmax(1), minlength=4)
        image = torch.nn.functional.conv2d(x[None, None], torch.ones_like(x[None, None, :2, :2]))
        x[0] = 7.0
        return [factor, failed, values, vectors.abs(), torch.cholesky_inverse(factor), kept, votes, image, x]

    x = torch.arange(12.0, dtype=torch.float64).reshape(3, 4).sin()
    with pretend_device() as device:
        there = computed(x.to(DEVICE))
        assert {t.device.type for t in there} == {"pretend"}
        assert isinstance(device, PretendDevice)
        assert device.to_host == device.reads == 0
        there = [t.cpu() for t in there]
    assert all(torch.equal(a, b) for a, b in zip(there, computed(x.clone()), strict=True))
