"""The falsifier of deterministic certificates: contradictions, planted networks, quotients, flips; the first raises."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from certify.bounds import Analysis
from certify.bounds.steepest import Box
from certify.errors import InputError
from certify.examples import Example
from certify.falsifier.attacked import Attacked
from certify.falsifier.canaries import Certify, certify_alone, check_canaries
from certify.falsifier.consistency import check_consistency
from certify.falsifier.levels import LIPSCHITZ, LipschitzEffort
from certify.falsifier.on_bounds import attack_constants, attack_local
from certify.falsifier.on_radii import attack_radii
from certify.results import Falsifier, FalsifyLevel, LipschitzExample, LipschitzSettings

OFF = Falsifier(level="off", tried="nothing: no attack was run against these certificates", found=0)


def falsify_lipschitz(
    analysis: Analysis,
    examples: Sequence[Example],
    rows: Sequence[LipschitzExample],
    settings: LipschitzSettings,
    *,
    level: FalsifyLevel = "quick",
    range: Box = None,  # noqa: A002 - the field of the input space
    certify: Certify = certify_alone,
) -> Falsifier:
    """Return what was tried against the certificates of a run, none of which broke.

    An attack that finds nothing proves nothing. What it finds counts only when it is confirmed: distances in rational
    arithmetic, inputs inside the range, outputs beyond the error of their own pass.

    Args:
        analysis: What was proved about the network.
        examples: The examples, in the order of ``rows``.
        rows: Their certificates.
        settings: Those of the run; their seed is that of the attacks.
        level: How hard to try; "off" returns at once.
        range: Where inputs lie; None for everywhere.
        certify: How the run certifies one example of one network, for the planted networks.

    Raises:
        BrokenCertificate: If a certificate is confirmed to be false, with the evidence.
        ValueError: If there are not as many rows as examples, or they are not of the same examples.

    Example:
        >>> import numpy as np, torch
        >>> from certify.bounds import analyse, certify_example
        >>> from certify.graph import Graph, Operation
        >>> ops = (Operation(name="x", kind="input"),
        ...        Operation(name="y", kind="linear", inputs=("x",), weights={"weight": "W"}))
        >>> settings = LipschitzSettings()
        >>> found = analyse(Graph(ops, "y", (2,), {"W": torch.eye(2)}), settings)
        >>> example = Example(0, "a", 0, np.array([1.0, 0.0]))
        >>> falsify_lipschitz(found, [example], [certify_example(found, example, settings)], settings).found
        0
    """
    if level == "off":
        return OFF
    _check_order(examples, rows)
    effort = LIPSCHITZ[level]
    check_consistency(analysis.network, analysis.layers, rows)
    planted = check_canaries(settings if examples else _without_examples(settings), certify)
    attacked = Attacked(analysis, examples, rows, settings, range)
    try:
        tried = [*_bounds_words(attacked, effort), *_radii_words(attacked, effort)]
    except InputError as error:
        tried = [f"no attack by gradients ({error})"]
    return Falsifier(level=level, tried="; ".join([*tried, f"{planted} planted networks"]), found=0)


def _without_examples(settings: LipschitzSettings) -> LipschitzSettings:
    """Return the settings for the bounds of a whole network alone: what a run without examples proves."""
    return replace(settings, method="covariance") if settings.method == "auto" else settings


def _check_order(examples: Sequence[Example], rows: Sequence[LipschitzExample]) -> None:
    if len(examples) != len(rows) or any(e.hash != row.hash for e, row in zip(examples, rows, strict=True)):
        raise ValueError("expected the rows of these examples, in their order")


def _bounds_words(attacked: Attacked, effort: LipschitzEffort) -> list[str]:
    words = []
    if attacked.analysis.network.upper is not None:
        pairs, climbed = attack_constants(attacked, effort)
        words.append(
            f"difference quotients, of all values and of pairs of classes, of {pairs} pairs of examples and of "
            f"{climbed} pairs ascended for {effort.pair_steps} steps"
        )
    local = attack_local(attacked, effort)
    if local:
        words.append(f"pairs inside the balls of {local} local constants, ascended for {effort.pair_steps} steps")
    return words


def _radii_words(attacked: Attacked, effort: LipschitzEffort) -> list[str]:
    count, of = attack_radii(attacked, effort)
    if not of:
        return []
    pgd = f"PGD ({effort.pgd_steps} steps, {effort.pgd_starts} starts)"
    both = f"{pgd} and DDN ({effort.ddn_steps} steps)" if attacked.settings.norm == "l2" else pgd
    fewer = "" if count == of else ", spread evenly"
    return [f"{both} at 0.999 of the radius on {count} of {of} certified examples{fewer}"]
