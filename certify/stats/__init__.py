"""Bounds on one probability from counts, radii, and intervals over examples; no torch."""
