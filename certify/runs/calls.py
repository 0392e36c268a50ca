"""The library call of smoothing, whatever is certified: a vote, the likeliest classes, outputs, pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from certify.errors import InputError
from certify.examples import Dataset
from certify.loading import Model, load
from certify.results import (
    FalsifyLevel,
    OutputsReport,
    Regression,
    Segmentation,
    SmoothingExample,
    SmoothingReport,
    SmoothingSettings,
    TopK,
)
from certify.runs.opening import STORE_FOLDER
from certify.runs.outputs import smooth_outputs
from certify.runs.places import choose_placement
from certify.runs.records import read_dataset
from certify.runs.sampling import start_smoothing
from certify.smoothing.placement import Engine, Rows


def _outputs_data(
    model: Model | nn.Module | str | Path, data: Dataset | NDArray[Any] | str | Path, settings: SmoothingSettings
) -> Dataset | NDArray[Any]:
    """Return the inputs of a task of outputs; a path is read as the model's own data are."""
    if not isinstance(data, str | Path):
        return data
    if isinstance(model, nn.Module):
        raise InputError(f"expected an array of inputs or a data set beside a module in memory, got the path {data!s}")
    known = model if isinstance(model, Model) else load(model)
    return read_dataset(data, known, skip=settings.skip, limit=settings.limit)


@overload
def smooth(
    model: Model | str | Path,
    data: Dataset | str | Path,
    settings: SmoothingSettings,
    *,
    store: str | Path = ...,
    device: str = ...,
    batch: Rows = ...,
    workers: int | None = ...,
    engine: Engine = ...,
    restart: bool = ...,
    falsify: FalsifyLevel = ...,
    scales: object = ...,
    task: TopK | None = None,
) -> SmoothingReport: ...


@overload
def smooth(
    model: Model | nn.Module | str | Path,
    data: Dataset | NDArray[Any] | str | Path,
    settings: SmoothingSettings,
    *,
    store: str | Path = ...,
    device: str = ...,
    batch: Rows = ...,
    workers: int | None = ...,
    engine: Engine = ...,
    restart: bool = ...,
    falsify: FalsifyLevel = ...,
    scales: object = ...,
    task: Regression | Segmentation,
) -> OutputsReport: ...


def smooth(
    model: Model | nn.Module | str | Path,
    data: Dataset | NDArray[Any] | str | Path,
    settings: SmoothingSettings,
    *,
    store: str | Path = STORE_FOLDER,
    device: str = "auto",
    batch: Rows = "auto",
    workers: int | None = None,
    restart: bool = False,
    falsify: FalsifyLevel = "quick",
    scales: object = None,
    task: TopK | Regression | Segmentation | None = None,
    engine: Engine = "local",
) -> SmoothingReport | OutputsReport:
    """Return the report of randomized smoothing: for each example a class and a radius that hold for the noisy vote.

    Except with probability ``alpha`` over its own draws, the smoothed classifier g(x) = argmax_k P(f(x + noise) = k)
    gives the reported class to every input nearer than ``radius`` in l2 (l1 for uniform noise). The network f itself is
    promised nothing. With noise "split", for 8-bit data, nothing is random and no certificate fails: the vote is over
    all shifts of a splitting of the pixel values, and radii are in l1 (`certify.stats.splitting`).
    With radii asked for (``at``), each example ends as soon as they are decided, after far fewer draws.
    Source: Cohen, Rosenfeld and Kolter (2019), arXiv 1902.02918, Theorem 1 and Algorithm Certify.

    Args:
        model: A model, or the path of its file; with a task of outputs also a module in memory.
        data: Examples, or their path; with a task of outputs also an array of inputs.
        settings: sigma, alpha, draws and bound; see `certify.results.SmoothingSettings`.
        store: Folder of the run store: an interrupted run continues, a finished one is re-used.
        device: "auto", "cpu", "cuda" or "cuda:i".
        batch: Rows per forward pass; never changes a count.
        workers: Forward passes side by side on a CPU; None: as many as there are cores. A CUDA device, where the noise
            is made too, runs one after the other. Never changes a count.
        restart: Discard what an earlier run of the same settings has left.
        falsify: How hard the certificates are attacked before the report leaves: "off", "quick" or "full".
        scales: An array d of the shape of one input, fixed before the data are seen: the noise has the standard
            deviation sigma d_i in coordinate i, and radii are in ||D^-1 v||_2; see `certify.smoothing.scales`.
        task: What is certified; None: the class of the vote. ``TopK(k)``: that the class the pilot names stays among
            the k likeliest; ``correct`` still says whether it is the label. ``Regression`` and ``Segmentation``: bounds
            of noisy outputs, and pixels, of any network (`certify.runs.outputs`): their report has no labels and no
            attacks, and every example gets exactly n draws.
        engine: "ray": the workers are processes of a Ray cluster, as many as it has cores or GPUs
            (`certify.smoothing.shards`). Never changes a count.

    Raises:
        InputError: If a file or setting is not what it must be, or data and model do not fit.
        NoRuleError: If the network is no function of its input.
        InterruptedRun: After SIGINT or SIGTERM; what is done is kept.
    """
    if isinstance(task, Regression | Segmentation):
        placement = choose_placement(device, batch, workers, engine)
        return smooth_outputs(
            load(model) if isinstance(model, str | Path) else model,
            _outputs_data(model, data, settings),
            settings,
            task,
            store=store,
            placement=placement,
            restart=restart,
            scales=scales,
        )
    if isinstance(model, nn.Module) or isinstance(data, np.ndarray):
        raise InputError("expected a loaded model and a data set or their paths; save a module with certify.save first")
    if task is not None:
        settings = msgspec.structs.replace(settings, task=task)
    loaded = model if isinstance(model, Model) else load(model)
    path = "" if isinstance(data, Dataset) else str(data)
    if not isinstance(data, Dataset):
        data = read_dataset(data, loaded, skip=settings.skip, limit=settings.limit)
    with start_smoothing(
        loaded,
        data,
        settings,
        store=store,
        device=device,
        batch=batch,
        workers=workers,
        restart=restart,
        data_path=path,
        falsify=falsify,
        scales=scales,
        engine=engine,
    ) as run:
        examples = [event for event in run.events() if isinstance(event, SmoothingExample)]
        return run.report(examples)
