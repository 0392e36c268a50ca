"""The commands, as a table; each is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Annotated

import typer

from certify._version import __version__
from certify.cli.output import write_text

HELP = "Certify the robustness of trained neural networks: proved Lipschitz bounds, randomized smoothing, CI gates."


@dataclass(frozen=True)
class Command:
    """A command: where its function is, and its line in the list of commands, the first of the function's own text."""

    module: str
    function: str
    summary: str


COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "inspect": Command(
            "inspect",
            "inspect_command",
            "Show tensors, operations, input space and classes, and which analyses can treat the model.",
        ),
        "export": Command(
            "inspect",
            "export_command",
            "Write a network as a self-describing safetensors file, which is certified without its code.",
        ),
        "lipschitz": Command(
            "lipschitz", "command", "Prove Lipschitz bounds of a network and, with DATA, certified radii."
        ),
        "smooth": Command(
            "smooth",
            "command",
            "Certify the noisy vote of a network: each certificate is false with probability at most alpha.",
        ),
        "curvature": Command(
            "curvature", "command", "Read curvature and sensitivity on DATA: diagnostics, never certificates."
        ),
        "gate": Command(
            "gate",
            "command",
            "Judge the gates of the configuration: exit 0 when all pass, 1 when one fails, 4 when one is undecided.",
        ),
        "compare": Command(
            "compare",
            "command",
            "Compare two reports on the same examples: which were lost, which won, and how much of the share at most.",
        ),
        "report": Command(
            "report",
            "report_command",
            "Show reports in another format; as HTML, all of them on one page.",
        ),
        "merge": Command(
            "merge",
            "command",
            "Put the parts of one run together to the report of the whole run.",
        ),
        "verify": Command(
            "report",
            "verify_command",
            "Derive every radius, the summary and the verdicts again from the record; needs no model and no torch.",
        ),
        "schema": Command("report", "schema_command", "Print the JSON Schema of the report."),
    }
)


def build_app(asked: str) -> typer.Typer:
    """Return the application with the one command that is asked for; of the others it knows the name and the summary.

    Loading all commands takes longer than most of them run, and a list of commands needs none.
    """
    app = typer.Typer(
        name="certify",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help=HELP,
    )
    app.callback()(_root)
    for name, command in COMMANDS.items():
        if name == asked:
            app.command(name)(getattr(import_module(f"certify.cli.{command.module}"), command.function))
        else:
            app.command(name, help=command.summary)(_not_loaded)
    return app


def _not_loaded() -> None:
    raise RuntimeError("a command was run that was only listed")


def _show_version(asked: bool) -> None:
    if asked:
        write_text(f"certify {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass
