"""Which rows a new register has, and how the values that go along are maps of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from certify.bounds.covariance.maps import Entries, Map, Rows, as_entries, error_of, picked, row_count, stack


class Layout:
    """Which rows a new register has: kept ones first, then computed ones.

    Other values go along as they are; where their rows would be more than those of the register they are maps of, the
    register's rows go along instead and they remain maps of these (``keeps_basis`` allows it).
    """

    def __init__(
        self, width: int, dtype: torch.dtype, maps: Sequence[Map], carried: Mapping[str, Map], keeps_basis: bool
    ) -> None:
        self.width, self._dtype = width, dtype
        self.keep: list[int] = []
        self._blocks: list[Map] = []
        used = _used_columns(carried.values(), width) if keeps_basis else []
        as_basis = keeps_basis and len(used) < sum(row_count(view) for view in carried.values())
        if as_basis:
            self.keep = used
        placed = {} if as_basis else {name: self._put(view) for name, view in carried.items()}
        found = [self._put(view) for view in maps]
        self.targets = [torch.tensor([self._number(row) for row in rows]) for rows in found]
        self.carried: dict[str, Map] = {
            name: _recolumned(view, used, self.rows)
            if as_basis
            else Rows(torch.tensor([self._number(row) for row in placed[name]]))
            for name, view in carried.items()
        }

    def _put(self, view: Map) -> list[tuple[bool, int]]:
        """Give a value rows; return them as (kept, position in its part)."""
        rows = picked(view)
        if rows is not None and not set(rows) & set(self.keep):
            self.keep.extend(rows)
            return [(True, len(self.keep) - len(rows) + i) for i in range(len(rows))]
        start = sum(row_count(block) for block in self._blocks)
        self._blocks.append(view)
        return [(False, start + i) for i in range(row_count(view))]

    def _number(self, row: tuple[bool, int]) -> int:
        kept, position = row
        return position if kept else len(self.keep) + position

    @property
    def rows(self) -> int:
        """The number of rows of the new register."""
        return len(self.keep) + sum(row_count(block) for block in self._blocks)

    @property
    def changes_nothing(self) -> bool:
        """Whether the new register would be the old one."""
        return not self._blocks and self.keep == list(range(self.width))

    def matrix(self) -> Entries:
        """Return the computed rows."""
        if not self._blocks:
            return Entries(torch.zeros(1, 0, self.width, dtype=self._dtype))
        return as_entries(stack(self._blocks, self.width, self._dtype), self.width, self._dtype)


def _used_columns(views: Iterable[Map], width: int) -> list[int]:
    used = torch.zeros(width, dtype=torch.bool)
    for view in views:
        if isinstance(view, Rows):
            used[view.index[view.index >= 0]] = True
        else:
            used |= (view.values != 0).any(0).any(0) | (error_of(view) > 0).any(0)
    found: list[int] = used.nonzero()[:, 0].tolist()
    return found


def _recolumned(view: Map, used: Sequence[int], width: int) -> Map:
    """Return the same map of a register whose first rows are the rows ``used`` of the one before."""
    if isinstance(view, Rows):
        number = {row: i for i, row in enumerate(used)}
        return Rows(torch.tensor([number.get(row, -1) for row in view.index.tolist()]))
    values = view.values.new_zeros(*view.values.shape[:2], width)
    values[:, :, : len(used)] = view.values[:, :, used]
    error = error_of(view).new_zeros(view.values.shape[1], width)
    error[:, : len(used)] = error_of(view)[:, used]
    return Entries(values, error)
