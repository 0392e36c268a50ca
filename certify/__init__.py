"""Certify the robustness of trained neural networks."""

from certify._version import __version__

__all__ = ["__version__"]
