"""Transposed convolutions of stride 1 are convolutions by the turned kernel: exact on the torus."""

from collections.abc import Callable

import pytest
import torch

from certify.bounds.covariance.plan import compile_plan
from certify.bounds.covariance.proof import prove
from certify.bounds.covariance.starts import closed_forms
from certify.bounds.facts import collect_facts
from certify.bounds.floor import jacobian
from certify.bounds.gains import combine_rules, gain_uppers
from certify.graph import Graph
from tests.bounds.small_networks import Build

SHAPES = [  # kernel, dilation, padding, output padding, groups, of 2 channels of 4 x 5 pixels
    ((3, 3), (1, 1), (1, 1), (0, 0), 1),
    ((2, 3), (1, 2), (0, 0), (0, 1), 1),
    ((3, 1), (3, 1), (2, 0), (2, 0), 2),
    ((1, 2), (1, 1), (0, 1), (0, 0), 1),  # leaves nothing out and adds nothing
]


def network(layer: Callable[[Build], object]) -> Graph:
    b = Build(2, 4, 5)
    layer(b)
    b.random.manual_seed(1)
    b.add("relu")
    b.conv(b.normal(2, 4, 2, 2), stride=[2, 1])
    b.add("relu")
    b.add("sum", dims=[2, 3], keepdim=False)
    return b.graph()


def proved(graph: Graph) -> list[float]:
    facts = collect_facts(graph)
    plan = compile_plan(facts, graph.output, "l2", gain_uppers(facts, combine_rules(facts)))
    assert plan.fallbacks == ()
    return [prove(plan, multipliers).upper() for multipliers in closed_forms(plan)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_plan_is_that_of_the_same_map_as_a_convolution(shape):
    kernel, dilation, padding, extra, groups = shape
    weight = torch.randn(2, 4 // groups, *kernel, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    details = {"dilation": list(dilation), "padding": list(padding), "output_padding": list(extra), "groups": groups}
    turned = torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)]).flip(2, 3)
    reach = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    pads = [[before, before + more] for before, more in zip(reach, extra, strict=True)]
    bias = torch.zeros(4).double()
    there = network(lambda b: b.add("conv_transpose", weight=weight, bias=bias, stride=[1, 1], **details))
    here = network(lambda b: b.conv(turned, padding=pads, dilation=list(dilation), groups=groups))
    here.tensors["v1.bias"].zero_()
    for point in torch.randn(5, 2, 4, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64):
        J = jacobian(there, point)
        assert torch.allclose(J, jacobian(here, point), rtol=1e-12, atol=1e-12)  # the two graphs compute one function
        assert float(torch.linalg.matrix_norm(J, 2)) <= min(proved(there)) * (1 + 1e-12)
    for transposed, plain in zip(proved(there), proved(here), strict=True):
        assert plain * (1 - 1e-9) <= transposed <= plain * (1 + 1e-9)
