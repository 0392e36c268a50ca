"""`certify inspect` and `certify export`: what a model file holds, and how one is made."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.cli import options
from certify.cli.output import use_color
from certify.cli.sources import read_any
from certify.files import check_output

if TYPE_CHECKING:
    from rich.console import Console

    from certify.loading import Model, WeightsOnly

EXIT_NO_ARCHITECTURE = 3


def inspect_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .safetensors file.")],
    arch: options.Arch = None,
    color: options.ColorOption = options.Color.auto,
) -> int:
    """Show tensors, operations, input space and classes, and which analyses can treat the model."""
    from rich.console import Console

    from certify.loading import Model

    found = read_any(model, arch)
    console = Console(force_terminal=use_color(color), highlight=False, soft_wrap=False)
    if isinstance(found, Model):
        _show_model(console, found)
        return 0
    _show_weights(console, found)
    return EXIT_NO_ARCHITECTURE


def _show_model(console: Console, model: Model) -> None:
    from certify.bounds import unbounded_near_examples, unbounded_operations
    from certify.report import markup_text

    limits = (
        "unchecked" if model.input.range is None else f"values in [{model.input.range[0]:g}, {model.input.range[1]:g}]"
    )
    console.print(f"[bold]{markup_text(model.path)}[/bold]  {markup_text(model.source)}")
    console.print(f"sha256      {model.sha256}")
    console.print(f"input       {list(model.input.shape)}, {markup_text(model.input.space)}, {limits}")
    names = ", ".join(model.classes[:10]) + (", ..." if len(model.classes) > 10 else "")
    console.print(f"classes     {len(model.classes)}: {markup_text(names)}")
    console.print(f"parameters  {model.graph.parameter_count:,} in {len(model.graph.tensors)} tensors")
    console.print(_operations_table(model))
    console.print("smoothing         can treat it")
    for norm in ("l2", "linf"):
        reasons = unbounded_operations(model.graph, norm)
        answer = "can treat it" if not reasons else f"no global bound: {reasons[0]}"
        console.print(f"lipschitz {norm:<7} {markup_text(answer)}", soft_wrap=True)
        if reasons:
            near = unbounded_near_examples(model.graph)
            answer = f"no bound either: {near[0]}" if near else "certificates on small balls are tried, given data"
            console.print(f"{'':>17} around examples: {markup_text(answer)}", soft_wrap=True)


def _operations_table(model: Model) -> object:
    from rich import box
    from rich.table import Table

    from certify.graph import value_shapes
    from certify.report import markup_text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("operation", "kind", "output (one example)", "weights"):
        table.add_column(title, overflow="fold")
    shapes = value_shapes(model.graph)
    for operation in model.graph:
        weights = ", ".join(
            f"{role} {list(model.graph.tensors[name].shape)}" for role, name in operation.weights.items()
        )
        name = operation.module or operation.name
        table.add_row(markup_text(name), operation.kind, str(list(shapes[operation.name])), markup_text(weights))
    return table


def _show_weights(console: Console, weights: WeightsOnly) -> None:
    from rich import box
    from rich.table import Table

    from certify.report import markup_text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("tensor", "shape", "dtype"):
        table.add_column(title, overflow="fold")
    for name, tensor in weights.tensors.items():
        table.add_row(markup_text(name), str(list(tensor.shape)), str(tensor.dtype).removeprefix("torch."))
    console.print(f"[bold]{markup_text(weights.path)}[/bold]  weights only")
    console.print(f"sha256      {weights.sha256}")
    console.print(table)
    console.print(markup_text(weights.reason), soft_wrap=True)


def export_command(
    factory: Annotated[
        str, typer.Argument(metavar="FACTORY", help="pkg.module:factory or file.py:factory (runs it), or FILE.toml.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The self-describing file to write.")],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="A .safetensors file of weights for the network.")
    ] = None,
    quiet: options.Quiet = False,
) -> int:
    """Write a network as a self-describing safetensors file, which is certified without its code."""
    from certify.cli.output import write_note
    from certify.loading import export

    check_output(output)
    with redirect_stdout(sys.stderr):  # what the factory prints
        export(factory, output, weights=weights)
    if not quiet:
        write_note(f"written: {output}; see it with `certify inspect {output}`")
    return 0
