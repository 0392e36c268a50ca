"""Edits of a report, one leaf at a time: every leaf, and how it is changed."""

from __future__ import annotations

import json
import math
import re

from certify.errors import InputError
from certify.results import document_from_json


def leaves(value, path=""):
    if isinstance(value, dict):
        return [leaf for key, child in value.items() for leaf in leaves(child, f"{path}.{key}" if path else key)]
    if isinstance(value, list) and value:
        return [leaf for place, child in enumerate(value) for leaf in leaves(child, f"{path}[{place}]")]
    return [path]


def edited(plain, path, change):
    """Return a deep copy with one leaf changed."""
    copy = json.loads(json.dumps(plain))
    *steps, last = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path)]
    node = copy
    for step in steps:
        node = node[step]
    node[last] = change(node[last])
    return copy


def nudge(value):
    """The smallest edit of its kind: the next float, the next integer, one more letter."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return math.nextafter(value, math.inf)
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    return 0 if value is None else [0]


def shift(value):
    """A large edit: half as much again and a bit."""
    return value * 1.5 + 0.01 if isinstance(value, float) else nudge(value)


CHOICES = {
    "norm": ("l2", "linf"),
    "arithmetic": ("exact", "float64"),
    "method": ("auto", "product"),
    "procedure": ("planned", "fixed"),
    "bound": ("two-interval", "clopper-pearson"),
    "dtype": ("float32", "float64"),
    "object": ("base", "smoothed"),
    "claim": ("population", "list"),
    "on": ("lower", "estimate"),
    "verdict": ("passed", "failed"),
    "answer": ("certified", "not_certified"),
    "metric": ("certified_accuracy", "clean_accuracy"),
    "level": ("quick", "full"),
}


def flip(value):
    """Another value of the same choice, where the leaf is a choice; else a large edit."""
    for choices in CHOICES.values():
        if value in choices:
            return choices[1 - choices.index(value)]
    return shift(value)


def read(plain):
    """Return the report, or None when its types refuse it."""
    try:
        return document_from_json(json.dumps(plain), name="edited")
    except InputError:
        return None
