"""Every supported module becomes a graph that computes the same, bit for bit, in memory and through JSON."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from certify.graph import KINDS, Graph, run, to_module, trace


class Calling(nn.Module):
    """A module whose forward is a function of the batch."""

    def __init__(self, function, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def flat(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, 3)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.normal_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.norm(self.body(x)))
        y += x
        return self.head(F.relu_(y).mean((2, 3)))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, 8, 4, stride=4)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 10, 8))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True),
            2,
            enable_nested_tensor=False,
        )
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.encoder(x + self.position[:, : x.shape[1]])[:, 0])


class HandmadeAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * 0.5).softmax(-1)
        return self.head((weights @ v).transpose(1, 2).reshape(b, n, d).mean(1))


IMAGE, TOKENS, ROW = (2, 12, 12), (5, 8), (6,)

ACTIVATIONS = {
    "relu": nn.ReLU(), "relu_inplace": nn.ReLU(inplace=True), "leaky_relu": nn.LeakyReLU(0.2), "prelu": nn.PReLU(6),
    "elu": nn.ELU(0.7), "selu": nn.SELU(), "celu": nn.CELU(0.8), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(), "mish": nn.Mish(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "softplus": nn.Softplus(2.0),
    "hardtanh": nn.Hardtanh(-0.5, 2.0), "relu6": nn.ReLU6(), "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(), "softsign": nn.Softsign(), "logsigmoid": nn.LogSigmoid(),
    "tanhshrink": nn.Tanhshrink(), "softshrink": nn.Softshrink(0.1), "softmax": nn.Softmax(-1),
    "log_softmax": nn.LogSoftmax(1), "rrelu": nn.RReLU(), "dropout": nn.Dropout(0.5),
}  # fmt: skip


def cases():
    for name, layer in ACTIVATIONS.items():
        yield name, ROW, lambda layer=layer: nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 3))
    functions = {
        "abs": lambda _, x: x.abs(),
        "sin": lambda _, x: torch.sin(x),
        "clamp": lambda _, x: x.clamp(min=-0.1),
        "clip_both": lambda _, x: torch.clip(x, -0.1, 0.3),
        "arithmetic": lambda _, x: (2.0 - x) * 0.3 / 1.7 - (-x) + 1,
        "add_mul_tensors": lambda m, x: (x + m.a) * m.b,
        "max_min": lambda _, x: torch.cat([torch.max(*x.chunk(2, 1)), torch.min(*x.chunk(2, 1))], 1),
        "group_sort": lambda _, x: x.view(-1, 3, 2).sort(-1)[0].flatten(1),
        "maximum": lambda _, x: torch.maximum(x[:, :3], x[:, 3:]),
        "minimum": lambda _, x: torch.min(x[:, :3], x[:, 3:]),
        "in_place_then_read": lambda _, x: (lambda y: F.relu_(y) + y)(x * 2),
        "same_dtype": lambda _, x: x.float().to(torch.float32).contiguous(),
        "stack_amax": lambda _, x: torch.stack([x, x * 2], 1).amax(1),
        "max_dim": lambda _, x: x.view(-1, 2, 3).max(1).values,
        "min_dim": lambda _, x: x.view(-1, 2, 3).min(dim=-1, keepdim=True)[0].squeeze(-1),
        "split_roll_flip": lambda _, x: torch.cat([p.flip(1) for p in x.split([2, 4], 1)], 1).roll(1, 1),
        "unbind_select": lambda _, x: torch.stack(x.unbind(1)[::-1], 1) + x[:, 2:3] + x.narrow(1, 0, 1),
        "strided_slice": lambda _, x: x[:, ::2],
        "sum_keepdim": lambda _, x: x.sum(1, keepdim=True) - x,
        "matmul_weight": lambda m, x: x @ m.w,
        "normalised_weight": lambda m, x: F.linear(x, m.w / m.w.norm()),
        "scaled_weight_used_twice": lambda m, x: F.linear(F.linear(x, m.w), m.w.t() * 0.5),
        "expand": lambda m, x: x + m.a.expand(x.shape[0], 6),
    }
    for name, function in functions.items():
        yield (
            name,
            ROW,
            lambda function=function: Calling(
                function,
                a=nn.Parameter(torch.randn(6)),
                b=nn.Parameter(torch.randn(1, 6)),
                w=nn.Parameter(torch.randn(6, 6)),
            ),
        )
    layers = {
        "conv_stride_dilation_groups": nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=2, groups=2),
        "conv_same_even": nn.Conv2d(2, 3, 4, padding="same"),
        "conv_valid": nn.Conv2d(2, 3, 3, padding="valid"),
        "conv_circular": nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        "conv_reflect": nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"),
        "conv_replicate": nn.Conv2d(2, 3, 3, padding="same", padding_mode="replicate"),
        "conv_transpose": nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        "batch_norm": nn.BatchNorm2d(2),
        "instance_norm": nn.InstanceNorm2d(2, affine=True),
        "instance_norm_tracked": nn.InstanceNorm2d(2, track_running_stats=True),
        "group_norm": nn.GroupNorm(2, 2),
        "layer_norm": nn.LayerNorm((2, 12, 12)),
        "rms_norm": nn.RMSNorm(12),
        "max_pool": nn.MaxPool2d(3, 2, padding=1, dilation=1, ceil_mode=True),
        "avg_pool": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        "avg_pool_divisor": nn.AvgPool2d(2, divisor_override=3),
        "adaptive_avg": nn.AdaptiveAvgPool2d((5, 3)),
        "adaptive_max": nn.AdaptiveMaxPool2d(4),
        "pad_zero": nn.ZeroPad2d((1, 2, 0, 3)),
        "pad_reflect": nn.ReflectionPad2d(2),
        "pad_replicate": nn.ReplicationPad2d((1, 0, 2, 1)),
        "pad_circular": nn.CircularPad2d(1),
        "pad_constant": nn.ConstantPad2d(1, 0.5),
        "crop": nn.ZeroPad2d(-1),
        "pixel_shuffle": nn.Sequential(nn.PixelUnshuffle(2), nn.PixelShuffle(2)),
        "channel_shuffle": nn.ChannelShuffle(2),
        "upsample": nn.Upsample(scale_factor=2),
        "softmax2d": nn.Softmax2d(),
        "unflatten": nn.Unflatten(1, (1, 2)),
        "weight_norm": torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)),
        "spectral_norm": torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)),
        "orthogonal": torch.nn.utils.parametrizations.orthogonal(nn.Conv2d(2, 3, 3)),
    }  # fmt: skip
    for name, layer in layers.items():
        yield name, IMAGE, lambda layer=layer: flat(layer)
    for rank in (1, 3):
        conv, pool = getattr(nn, f"Conv{rank}d"), getattr(nn, f"MaxPool{rank}d")
        average, transposed = getattr(nn, f"AvgPool{rank}d"), getattr(nn, f"ConvTranspose{rank}d")
        yield (
            f"rank_{rank}",
            (2, *[8] * rank),
            lambda c=conv, p=pool, a=average, t=transposed: flat(c(2, 3, 3, padding=1), p(2), t(3, 2, 2), a(2)),
        )
    yield "residual", IMAGE, Residual
    yield "vision_transformer", IMAGE, VisionTransformer
    yield "handmade_attention", TOKENS, HandmadeAttention
    for batch_first in (True, False):
        yield (
            f"encoder_batch_first_{batch_first}",
            TOKENS,
            lambda batch_first=batch_first: Calling(
                lambda m, x: m.head(m.body(x if m.first else x.transpose(0, 1)).mean(1 if m.first else 0)),
                body=nn.TransformerEncoder(
                    nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first), 1, enable_nested_tensor=False
                ),
                head=nn.Linear(8, 3),
                first=batch_first,
            ),
        )
    yield (
        "mha_with_weights",
        TOKENS,
        lambda: Calling(lambda m, x: m.body(x, x, x)[0].flatten(1), body=nn.MultiheadAttention(8, 2, batch_first=True)),
    )
    yield (
        "causal_attention",
        TOKENS,
        lambda: Calling(lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True).flatten(1)),
    )
    yield (
        "masked_attention",
        TOKENS,
        lambda: Calling(
            lambda m, x: F.scaled_dot_product_attention(x, x, x, m.mask).flatten(1),
            mask=nn.Buffer(torch.ones(5, 5, dtype=torch.bool).tril()),
        ),
    )


CASES = {name: (shape, build) for name, shape, build in cases()}

TRACED_TO = {
    # each to the kind it is named after
    **{kind: kind for kind in (
        "celu", "elu", "group_norm", "hardsigmoid", "hardswish", "instance_norm", "leaky_relu", "log_softmax",
        "logsigmoid", "max_min", "maximum", "minimum", "mish", "prelu", "rms_norm", "selu", "sigmoid", "silu",
        "sin", "softplus", "softshrink", "softsign", "tanh", "tanhshrink",
    )},
    "abs": "abs input",
    "adaptive_avg": "adaptive_avg_pool linear reshape",
    "adaptive_max": "adaptive_max_pool",
    "min_dim": "amin",
    "arithmetic": "add constant div mul sub",
    "split_roll_flip": "concat flip roll slice",
    "group_sort": "sort",
    "sum_keepdim": "sum",
    "upsample": "upsample_nearest",
    "stack_amax": "amax",
    "vision_transformer": "attention conv expand gelu layer_norm permute",
    "handmade_attention": "matmul mean softmax",
    "residual": "batch_norm relu",
    "rank_1": "avg_pool conv_transpose max_pool",
    "hardtanh": "clamp",
    "conv_circular": "pad",
}  # fmt: skip
"""Case to kinds of operations it is traced to; each kind once, `normalize` excepted: see mean and std below."""

REORDERED = {"matmul_weight"}
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.fixture(autouse=True)
def plain_attention():
    """The fused encoder kernel rounds differently from the operators it fuses."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def built(name: str) -> tuple[nn.Module, Tensor]:
    shape, build = CASES[name]
    torch.manual_seed(0)
    module = build().eval()
    x = torch.randn(4, *shape)
    with torch.no_grad():
        module(x)  # lazy layers learn their shapes
    return module.requires_grad_(False), x  # a weight that requires gradients takes another path through matmul


@pytest.mark.parametrize("name", CASES)
def test_graph_gives_the_outputs_of_the_module_bit_for_bit(name):
    module, x = built(name)
    graph = trace(module, x.shape[1:])
    assert {operation.kind for operation in graph} >= set(TRACED_TO.get(name, "").split())
    with torch.no_grad():
        expected = module(x)
        if name in REORDERED:
            module, x, graph = module.double(), x.double(), graph.to(torch.float64)
            assert torch.allclose(run(graph, x), module(x), rtol=1e-14, atol=1e-14)
            return
        assert torch.equal(run(graph, x), expected)
        assert torch.equal(to_module(graph)(x), expected)
        again = Graph.from_json(graph.to_json(), graph.tensors)
        assert torch.equal(run(again, x), expected)


def test_every_kind_of_the_vocabulary_is_traced_by_some_case():
    assert sorted([*" ".join(TRACED_TO.values()).split(), "normalize"]) == sorted(KINDS)
    assert CASES.keys() >= TRACED_TO.keys()
