"""The base of every struct in a report."""

from __future__ import annotations

from msgspec import Struct


class Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every struct in the report: unknown fields are errors."""
