"""What must hold between the numbers of a run, whatever the network: checked before any attack."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from msgspec import UNSET

from certify.errors import BrokenCertificate
from certify.results import LayerRow, LipschitzExample, NetworkBound

SLACK = 1e-5  # between two bounds of the same thing: neither is wrong if they cross by less


def check_consistency(network: NetworkBound, layers: Iterable[LayerRow], rows: Iterable[LipschitzExample]) -> None:
    """Raise when two numbers of a run contradict each other.

    Raises:
        BrokenCertificate: Naming the first contradiction.

    Example:
        >>> check_consistency(NetworkBound(norm="l2", upper=1.0, lower=2.0, method="product", proved=True), (), ())
        Traceback (most recent call last):
        certify.errors.BrokenCertificate: network: expected lower <= upper, got [2.0, 1.0]
    """
    for finding in (*_brackets(network, layers), *_examples(network, rows)):
        raise BrokenCertificate(finding, {"claim": "consistency", "finding": finding})


def _brackets(network: NetworkBound, layers: Iterable[LayerRow]) -> Iterator[str]:
    named = [
        ("network", network.lower, network.upper),
        *((f"layer {row.name}", row.lower, row.upper) for row in layers),
    ]
    for name, lower, upper in named:
        if upper is not None and not upper >= 0.0:
            yield f"{name}: expected an upper end of at least 0, got {upper}"
        if lower is not None and upper is not None and not lower <= upper:
            yield f"{name}: expected lower <= upper, got [{lower}, {upper}]"


def _examples(network: NetworkBound, rows: Iterable[LipschitzExample]) -> Iterator[str]:
    for row in rows:
        local = None if row.local_upper is UNSET else row.local_upper
        if local is not None and network.upper is not None and not local <= network.upper * (1.0 + SLACK):
            yield f"{row.id}: expected a local constant of at most the global {network.upper}, got {local}"
        if not (0.0 <= row.radius < math.inf):
            yield f"{row.id}: expected a finite radius of at least 0, got {row.radius}"
        if row.radius > 0.0 and row.predicted != row.clean_predicted:
            yield f"{row.id}: expected class {row.clean_predicted} to be certified, got {row.predicted}"
        if row.ball is not UNSET and not row.radius <= row.ball:
            yield f"{row.id}: expected a radius inside its ball of {row.ball}, got {row.radius}"
