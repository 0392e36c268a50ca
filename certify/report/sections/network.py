"""The network of a Lipschitz report: its bound between what is proved and what is estimated, and its layers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from msgspec import UNSET

from certify.report.figures import estimate_figure, lower_figure, upper_figure
from certify.report.outline import Block, Facts, Figure, Section, Table, Text, table_of
from certify.report.plots import BarRow, bar_chart, place_dots
from certify.report.wording import FLOORS, describe_shape
from certify.results import LayerRow, LipschitzReport, NetworkBound, Report

MOST_LAYERS, LEAST_SHARE = 24, 0.005
SHARE_NOTE = (
    "Share (an estimate): the part of the network's bound that grows in this layer, the logarithm of its growth among "
    "the logarithms of all growths above 1."
)


def network_section(report: Report) -> Section | None:
    """Return the bound of the network with its floors, and what limits it."""
    if not isinstance(report, LipschitzReport):
        return None
    network = report.network
    title = f"Lipschitz constant of the logits, {network.norm}"
    if network.upper is None:
        reason = network.reason if isinstance(network.reason, str) else network.method
        return Section("network", title, (Text(f"No bound: {reason}"),))
    blocks: list[Block] = [_bound_figure(network)]
    if network.limited_by is not UNSET:
        blocks.append(Facts((("limited by", network.limited_by),)))
    return Section("network", title, tuple(blocks))


def _bound_figure(network: NetworkBound) -> Figure:
    rows = list(_bound_rows(network))
    table = table_of(
        "The bound and its floors", ("number", "#value", "what it is"), [row[1:4] for row in rows], count=len(rows)
    )
    values = [value for *_, value in rows if value > 0.0]
    low, high = min(values, default=1.0) / 1.5, max(values, default=1.0) * 1.5

    def place(value: float) -> float:
        return math.log(max(value, low) / low) / math.log(high / low)

    dots = [(role, name, value, figure) for role, name, figure, _, value in rows]
    alt = f"Dots on a logarithmic scale: {'; '.join(f'{name} {figure}' for _, name, figure, *_ in rows)}."
    return Figure("The bound between what is proved and what is estimated", alt, place_dots(dots, place), table)


def _bound_rows(network: NetworkBound) -> Iterator[tuple[str, str, str, str, float]]:
    """Yield role, name, figure, meaning and value of each number that there is, the largest claim first."""
    if network.upper is not None:
        side = f"proved by {network.method}" if network.proved else f"not proved; by {network.method}"
        role, name = ("proved", "upper") if network.proved else ("guess", "estimate")
        yield role, name, upper_figure(network.upper), side, network.upper
    for field, what in sorted(FLOORS.items(), reverse=True):
        value = getattr(network, field)
        if value is not UNSET:
            yield "guess", what.name, estimate_figure(value), f"an estimate: {what.meaning}", value
    if network.lower is not None:
        yield "proved", "lower", lower_figure(network.lower), "proved: the constant is at least this", network.lower


def layers_section(report: Report) -> Section | None:
    """Return the bracket of every layer and its share of the network's bound."""
    if not isinstance(report, LipschitzReport) or not report.layers:
        return None
    table = layer_table(report)
    shares = [(layer.name, layer.share) for layer in report.layers if layer.share is not UNSET]
    growing = sorted(((name, share) for name, share in shares if share >= LEAST_SHARE), key=lambda pair: -pair[1])[
        :MOST_LAYERS
    ]
    if not growing:
        return Section("layers", "Layers", (table,))
    bars = [BarRow(name, (("guess-bar", share),), f"{share:.0%}") for name, share in growing]
    first = ", ".join(f"{name} ({share:.0%})" for name, share in growing[:3])
    alt = f"Bars for the layers in which the bound grows, {len(growing)} of {len(shares)}. The most: {first}."
    figure = Figure("Where the network's bound grows (estimate)", alt, bar_chart(bars), table)
    return Section("layers", "Layers", (figure, Text(SHARE_NOTE, quiet=True)))


def layer_table(report: LipschitzReport) -> Table:
    """Return one row for each layer: its proved bracket, its share, and how it was bounded."""
    titles = ("layer", "kind", "shape", "#lower", "#upper", "#share", "method")
    rows = [_layer_cells(layer) for layer in report.layers]
    return table_of(
        f"Proved {report.network.norm} brackets of the layers", titles, rows, count=len(rows), folded=len(rows) > 60
    )


def _layer_cells(layer: LayerRow) -> tuple[str, ...]:
    return (
        layer.name,
        layer.kind,
        describe_shape(layer.shape),
        "" if layer.lower is None else lower_figure(layer.lower),
        "unbounded" if layer.upper is None else upper_figure(layer.upper),
        "" if layer.share is UNSET else f"{layer.share:.0%}",
        layer.method,
    )
