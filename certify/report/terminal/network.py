"""The bracket of every operation and of the whole network, on a terminal."""

from __future__ import annotations

from msgspec import UNSET, UnsetType
from rich.console import Group
from rich.table import Table
from rich.text import Text

from certify.report.figures import estimate_figure, lower_figure, upper_figure
from certify.report.neutralise import strip_controls
from certify.report.terminal.header import label_rows
from certify.report.wording import FLOORS, describe_shape
from certify.results import LayerRow, LipschitzReport, NetworkBound, Report


def draw_layers(report: Report) -> Table | None:
    """Return one row per operation: lower (rounded down), upper (rounded up), and the method or the reason."""
    if not isinstance(report, LipschitzReport) or not report.layers:
        return None
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for title in ("name", "kind", "shape"):
        table.add_column(title, overflow="fold")
    for title in ("lower", "upper"):
        table.add_column(f"{title} {report.network.norm}", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("method", overflow="fold")
    for layer in report.layers:
        table.add_row(*_layer_cells(layer))
    return table


def _layer_cells(layer: LayerRow) -> tuple[Text, ...]:
    unbounded = layer.upper is None
    return (
        Text(strip_controls(layer.name)),
        Text(strip_controls(layer.kind)),
        Text(describe_shape(layer.shape)),
        Text("-" if layer.lower is None else lower_figure(layer.lower)),
        Text("unbounded", style="yellow") if layer.upper is None else Text(upper_figure(layer.upper)),
        Text("" if layer.share is UNSET else f"{layer.share:.0%}", style="dim"),
        Text(strip_controls(layer.method), style="yellow" if unbounded else "dim"),
    )


def draw_network(report: Report) -> Table | Group | None:
    """Return the bound of the network, each number with its side; what is only estimated says so."""
    if not isinstance(report, LipschitzReport):
        return None
    network = report.network
    floors = [row for field, floor in FLOORS.items() for row in _floor(floor.meaning, getattr(network, field))]
    limit = [] if network.limited_by is UNSET else [("limited by", strip_controls(network.limited_by))]
    return Group(_headline(network), label_rows([*_lower(network), *floors, *limit]))


def _headline(network: NetworkBound) -> Text:
    if network.upper is None:
        reason = network.reason if isinstance(network.reason, str) else network.method
        return Text(f"no bound: {strip_controls(reason)}", style="yellow")
    side = "upper, proved" if network.proved else "estimate, not proved"
    figure = upper_figure(network.upper)
    return Text.assemble(
        f"{network.norm} Lipschitz constant of the logits at most ",
        (figure, "bold"),
        f"  ({side} by {strip_controls(network.method)})",
    )


def _lower(network: NetworkBound) -> list[tuple[str, str]]:
    return [] if network.lower is None else [("lower", f"{lower_figure(network.lower)}  proved")]


def _floor(what: str, value: float | UnsetType) -> list[tuple[str, str]]:
    return [] if value is UNSET else [("estimate", f"{estimate_figure(value)}  {what}")]
