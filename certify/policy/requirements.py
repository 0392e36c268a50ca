"""The counts that decide a gate: from which it passes, up to which it fails, and how many examples could pass it."""

from __future__ import annotations

from functools import lru_cache

from certify.policy.gates import Gate
from certify.stats import Requirement, list_requirement, population_requirement, smallest_population_sample

MOST_STEPS = 1000


@lru_cache(maxsize=256)
def requirement(gate: Gate, n: int, alpha: float) -> Requirement:
    """Return the counts of ``n`` examples from which the gate passes and up to which it fails.

    Args:
        gate: The gate.
        n: Examples, at least 1.
        alpha: The chance that one certificate is false; 0 for Lipschitz reports.

    Raises:
        ValueError: If ``n`` or ``alpha`` is out of range.

    Example:
        >>> gate = Gate(name="g", metric="clean_accuracy", min=0.6)
        >>> requirement(gate, 500, 0.001)
        Requirement(passes_from=319, fails_to=281)
    """
    if gate.on == "estimate":
        return list_requirement(n, gate.min, alpha=0.0, rho=0.05)  # without false certificates rho plays no part
    if gate.claim == "list":
        return list_requirement(n, gate.min, alpha=alpha, rho=1.0 - gate.confidence)
    return population_requirement(n, gate.min, confidence=gate.confidence, alpha=alpha)


@lru_cache(maxsize=256)
def least_examples(gate: Gate, n: int, alpha: float) -> int | None:
    """Return the least number of examples, at least ``n``, that could pass the gate; None when none is found.

    What a list of n examples must count rises with n, so stepping from n to what n asks for, again and again, stops at
    the first n that asks for no more than it has.

    Example:
        >>> least_examples(Gate(name="g", metric="clean_accuracy", min=0.99), 100, 0.0)
        299
    """
    if gate.on == "lower" and gate.claim == "population":
        least = smallest_population_sample(gate.min, confidence=gate.confidence, alpha=alpha)
        return None if least is None else max(n, least)
    for _ in range(MOST_STEPS):
        need = requirement(gate, n, alpha).passes_from
        if need <= n:
            return n
        n = need
    return None
