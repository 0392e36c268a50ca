"""Where a run takes place: the device, and how much runs side by side."""

from __future__ import annotations

import platform

import torch

from certify.bounds import (
    WORTHWHILE,
    SearchPlace,
)
from certify.errors import InputError
from certify.smoothing.placement import Engine, Placement, Rows
from certify.smoothing.shards import cluster_workers


def choose_device(name: str = "auto") -> str:
    """Return the device to run on: "auto" is CUDA where there is one.

    Raises:
        InputError: If the name is not auto, cpu, cuda or cuda:i, or that device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise InputError(f"expected device auto, cpu, cuda or cuda:i, got {name!r}")
    if kind == "cuda" and not (torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count()):
        raise InputError(f"expected a CUDA device for {name!r}, got none; use --device cpu")
    return name


def search_place(device: str = "auto") -> SearchPlace:
    """Return where multipliers are searched: "auto" is CUDA, where there is one, for all but small networks.

    Raises:
        InputError: As `choose_device`.
    """
    return SearchPlace(choose_device(device), WORTHWHILE if device == "auto" else 0.0)


def choose_workers(device: str, engine: Engine = "local") -> int:
    """Return how much runs side by side by default: on a CPU the threads PyTorch would use, on a CUDA device one.

    On a Ray cluster: as many as it has cores, or GPUs.
    """
    if engine == "ray":
        return cluster_workers(device)
    return torch.get_num_threads() if device == "cpu" else 1


def choose_placement(
    device: str = "auto", batch: Rows = "auto", workers: int | None = None, engine: Engine = "local"
) -> Placement:
    """Return where the forward passes of a smoothing run take place: `choose_device`, `choose_workers` where not given.

    Raises:
        InputError: As these two, or if a size is not a whole number of at least 1.
    """
    chosen = choose_device(device)
    return Placement(chosen, batch, workers or choose_workers(chosen, engine), engine)


def device_name(device: str) -> str:
    """Return the name of the processor behind a device."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
