"""The version of the tool, stated once."""

__version__ = "0.1.0"
