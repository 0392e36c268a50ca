"""A compiled network is one program for one number of rows; memory formats, too, only change where they are asked."""

import pickle

import pytest
import torch
from torch import nn

from certify.errors import InputError
from certify.graph import Program, trace


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


GRAPH = trace(network().eval(), (1, 6, 6))


@pytest.fixture
def compiled(monkeypatch):
    """The shapes that a stand-in for the compiler was given, which evaluates the module as it is."""
    shapes = []

    def stand_in(module, *, fullgraph, dynamic):
        assert fullgraph
        assert not dynamic

        def program(x):
            shapes.append((tuple(x.shape), x.is_contiguous()))
            return module(x)

        return program

    monkeypatch.setattr(torch, "compile", stand_in)
    return shapes


@pytest.mark.parametrize("batch", [0, 1, 3, 4, 5, 8, 11])
def test_every_batch_goes_through_the_program_of_one_shape(compiled, batch):
    x = torch.rand(batch, 1, 6, 6)
    found = Program(GRAPH, compiled_rows=4)(x.to(memory_format=torch.channels_last))
    assert set(compiled) == {((4, 1, 6, 6), True)}
    assert torch.allclose(found, Program(GRAPH)(x), atol=1e-6)
    assert found.shape == (batch, 3)


def test_nothing_is_compiled_before_the_first_call_and_all_is_compiled_once(compiled, monkeypatch):
    calls, compiler = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **options: calls.append(1) or compiler(module, **options))
    program = Program(GRAPH, compiled_rows=2)
    assert not calls
    for _ in range(3):
        program(torch.rand(2, 1, 6, 6))
    assert len(calls) == 1
    assert pickle.loads(pickle.dumps(program)).compiled_rows == 2
    Program(GRAPH)(torch.rand(2, 1, 6, 6))
    assert len(calls) == 1


def failing(error):
    def compiler(module, **options):
        def program(x):
            raise error

        return program

    return compiler


def test_a_machine_that_cannot_compile_is_told_what_is_missing(monkeypatch):
    monkeypatch.setattr(torch, "compile", failing(RuntimeError("No working C++ compiler found\nin seven lines")))
    with pytest.raises(InputError, match=r"got: No working C\+\+ compiler found; it needs a C\+\+ compiler .* leave"):
        Program(GRAPH, compiled_rows=4)(torch.rand(1, 1, 6, 6))


def test_running_out_of_memory_stays_what_it_is(monkeypatch):
    monkeypatch.setattr(torch, "compile", failing(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        Program(GRAPH, compiled_rows=4)(torch.rand(1, 1, 6, 6))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the compiler, which differ between versions
def test_the_compiler_of_pytorch_computes_the_network():
    x = torch.rand(11, 1, 6, 6)
    program = Program(GRAPH, compiled_rows=4)
    assert torch.allclose(program(x), Program(GRAPH)(x), atol=1e-5)
    assert torch.equal(program(x), program(x))


def test_images_and_kernels_take_the_memory_format_that_is_asked_for(monkeypatch):
    seen = []
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval(), (3, 6, 6))
    plain, other = Program(graph), Program(graph, channels_last=True)
    x, convolve = torch.rand(5, 3, 6, 6), torch.nn.functional.conv2d
    expected = plain(x)

    def spy(x, *args):
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return convolve(x, *args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", spy)
    assert torch.allclose(other(x), expected, atol=1e-6)
    assert seen == [True]
    assert not x.is_contiguous(memory_format=torch.channels_last)
    kernels = [tensor for tensor in other.module.buffers() if tensor.dim() == 4]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    flat = Program(trace(nn.Linear(3, 2), (3,)), channels_last=True)
    assert flat(torch.rand(4, 3)).shape == (4, 2)


def test_a_compiler_that_is_switched_off_is_refused(monkeypatch):
    """It would run the module as it is, and the run would be named compiled."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with pytest.raises(InputError, match="got TORCHDYNAMO_DISABLE"):
        Program(GRAPH, compiled_rows=2)(torch.rand(2, 1, 6, 6))
