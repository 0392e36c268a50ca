"""A tiny network, its data, and its reports of every kind, made once for all tests that read curvature."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import certify
from certify.results import CurvatureReport, CurvatureSettings, LipschitzReport, SmoothingReport
from certify.runs.readings import measure_curvature

SETTINGS = CurvatureSettings(steps=12, probes=9, pairs=4, sigma=0.05)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def examples() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(7, 3)), np.arange(7) % 3


@functools.cache
def folder() -> Path:
    """The model and its data as files; they stay to the end of the process."""
    path = Path(tempfile.mkdtemp(prefix="certify-tiny-"))
    certify.save(network(), path / "model.safetensors", input_shape=(3,))
    x, y = examples()
    np.savez(path / "data.npz", x=x, y=y)
    torch.manual_seed(2)
    certify.save(nn.Sequential(nn.Linear(3, 3)), path / "other.safetensors", input_shape=(3,))
    return path


@functools.cache
def lipschitz() -> LipschitzReport:
    settings = certify.LipschitzSettings(method="product", effort="fast", local=0.1)
    return certify.lipschitz(folder() / "model.safetensors", folder() / "data.npz", settings, falsify="off")


@functools.cache
def smoothed() -> SmoothingReport:
    settings = certify.SmoothingSettings(sigma=0.1, n=200, n0=16)
    path = folder()
    return certify.smooth(
        path / "model.safetensors", path / "data.npz", settings, falsify="off", store=path / "runs", workers=1
    )


@functools.cache
def readings() -> CurvatureReport:
    return measure_curvature(
        folder() / "model.safetensors", folder() / "data.npz", SETTINGS, beside=(lipschitz(), smoothed())
    )
