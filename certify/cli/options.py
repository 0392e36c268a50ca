"""The options that several commands share, declared once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

STORE_FOLDER = ".certify_cache"


class Color(StrEnum):
    """When to use colours."""

    auto = "auto"
    always = "always"
    never = "never"


class Format(StrEnum):
    """The views of a report."""

    terminal = "terminal"
    json = "json"
    csv = "csv"
    tsv = "tsv"
    markdown = "markdown"
    html = "html"
    junit = "junit"
    card = "card"


class NormName(StrEnum):
    """The norm of distances in the input."""

    l2 = "l2"
    linf = "linf"


class Method(StrEnum):
    """How the network is bounded."""

    auto = "auto"
    product = "product"
    covariance = "covariance"


class FalsifyLevel(StrEnum):
    """How hard the certificates are attacked before a report leaves."""

    off = "off"
    quick = "quick"
    full = "full"


class Effort(StrEnum):
    """How long multipliers and radii are searched."""

    fast = "fast"
    default = "default"
    max = "max"


class Arithmetic(StrEnum):
    """The arithmetic a certificate covers."""

    exact = "exact"
    float64 = "float64"
    float32 = "float32"


class Noise(StrEnum):
    """The law of the noise, which gives the norm of the radii."""

    gaussian = "gaussian"
    uniform = "uniform"
    splitting = "split"


class Procedure(StrEnum):
    """How many draws an example gets."""

    planned = "planned"
    fixed = "fixed"


class Bound(StrEnum):
    """How counts become a radius."""

    two_interval = "two-interval"
    clopper_pearson = "clopper-pearson"
    cpm = "cpm"
    bonferroni = "bonferroni"


class Scores(StrEnum):
    """What is smoothed."""

    hard = "hard"
    soft = "soft"


class Engine(StrEnum):
    """Where the workers of a smoothing run are."""

    local = "local"
    ray = "ray"


class ScoreMap(StrEnum):
    """How logits become soft scores."""

    softmax = "softmax"
    sparsemax = "sparsemax"


class Dtype(StrEnum):
    """The floating type the network runs in."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"


Output: TypeAlias = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write the report as JSON to this file, whatever --format shows."),
]
FormatOption: TypeAlias = Annotated[Format, typer.Option("--format", help="How to show the result on stdout.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on stderr.")]
Verbose: TypeAlias = Annotated[bool, typer.Option("--verbose", "-v", help="More notes on stderr.")]
NoProgress: TypeAlias = Annotated[bool, typer.Option("--no-progress", help="No progress bar.")]
ColorOption: TypeAlias = Annotated[Color, typer.Option("--color", help="Colours on the terminal.")]
Seed: TypeAlias = Annotated[
    int | None, typer.Option("--seed", help="Seed of the run, fixed before any result is seen. [default: 0]", min=0)
]
Falsify: TypeAlias = Annotated[
    FalsifyLevel | None,
    typer.Option("--falsify", help="Attack the certificates before the report leaves. [default: quick]"),
]
Device: TypeAlias = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:i. [default: auto]")]
SearchDevice: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Where multipliers of the network's bound are searched: auto, cpu, cuda or cuda:i. All proofs, and the"
        " bounds around examples, are the CPU's. [default: auto]",
    ),
]
Batch: TypeAlias = Annotated[
    str | None, typer.Option("--batch", help="Rows per forward pass, or auto; never changes a result. [default: auto]")
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option("--workers", help="What runs side by side; never changes a result. [default: one a core]", min=1),
]
EngineOption: TypeAlias = Annotated[
    Engine | None,
    typer.Option("--engine", help="ray: the workers are processes of a Ray cluster (RAY_ADDRESS). [default: local]"),
]
Config: TypeAlias = Annotated[
    Path | None, typer.Option("--config", help="Configuration file; default: certify.toml, searched upward.")
]
Limit: TypeAlias = Annotated[int | None, typer.Option("--limit", help="At most this many examples.", min=1)]
Skip: TypeAlias = Annotated[int | None, typer.Option("--skip", help="Leave out the first examples.", min=0)]
StoreFolder: TypeAlias = Annotated[
    Path | None, typer.Option("--store", help="Folder of the run store. [default: .certify_cache]")
]
Arch: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help="Architecture of a file that holds weights only: FILE.toml, pkg.module:factory or file.py:factory"
        " (the last two run that code).",
    ),
]
Label: TypeAlias = Annotated[
    str | None, typer.Option("--label", help="Column of the label in a .csv table. [default: the last]")
]
ModelArgument: TypeAlias = Annotated[
    Path | None, typer.Argument(metavar="[MODEL]", help="A .safetensors file; default: the configuration's.")
]
DataArgument: TypeAlias = Annotated[
    Path | None,
    typer.Argument(metavar="[DATA]", help="Class folders of images, arrays, idx, CIFAR or .csv; see the README."),
]
