"""The lists of words that settings and verdicts are made of."""

from __future__ import annotations

from typing import Literal, TypeAlias

Norm: TypeAlias = Literal["l2", "linf"]
SmoothingNorm: TypeAlias = Literal["l1", "l2", "weighted-l2"]
AnyNorm: TypeAlias = Literal["l1", "l2", "linf", "weighted-l2"]
Method: TypeAlias = Literal["auto", "product", "covariance"]
Effort: TypeAlias = Literal["fast", "default", "max"]
FalsifyLevel: TypeAlias = Literal["off", "quick", "full"]
Verdict: TypeAlias = Literal["passed", "failed", "undecided"]
Answer: TypeAlias = Literal["certified", "not_certified", "undecided"]
Bound: TypeAlias = Literal["two-interval", "clopper-pearson", "cpm", "bonferroni", "randomized-clopper-pearson"]
Change: TypeAlias = Literal["both", "won", "lost", "neither"]
Certificates: TypeAlias = Literal["lipschitz", "smoothing"]
