"""A whole smoothing run: examples in, certified examples out, in order, each in the store before it is yielded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import Tensor

from certify.errors import InputError
from certify.examples import Dataset
from certify.results import SmoothingExample, SmoothingSettings
from certify.smoothing.addresses import BLOCK_DRAWS
from certify.smoothing.base_network import BaseNetwork, base_network
from certify.smoothing.blocks import example_key
from certify.smoothing.classification import Classification
from certify.smoothing.header import header_name
from certify.smoothing.jobs import Job
from certify.smoothing.laws import make_law
from certify.smoothing.loop import Events, SmoothingLoop
from certify.smoothing.noise import NoiseLaw
from certify.smoothing.noise_source import source_name
from certify.smoothing.placement import ONE_CORE, Engine, Placement, Rows
from certify.smoothing.procedure import plan_procedure
from certify.smoothing.store import Store
from certify.smoothing.tasks import Row, Task


def run_smoothing(
    predict: Callable[[Tensor], Tensor],
    dataset: Dataset,
    *,
    classes: int,
    settings: SmoothingSettings,
    store: Store,
    device: str | torch.device = "cpu",
    batch: Rows = "auto",
    workers: int = 1,
    engine: Engine = "local",
) -> Iterator[SmoothingExample]:
    """Yield the certified examples of a run in the order of the data set; see `smoothing_events`, which adds progress.

    ``device``, ``batch``, ``workers`` and ``engine`` are those of a `Placement`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from certify.examples import Example
        >>> from certify.smoothing import RunHeader, open_store
        >>> def sign(x: Tensor) -> Tensor:  # class 1 iff the first pixel is above 1/2
        ...     return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], dim=1)
        >>> image = Example(index=0, id="a", label=1, stored=np.array([230, 0], dtype=np.uint8))
        >>> data = Dataset((image,), total=1, selection="all")
        >>> settings = SmoothingSettings(sigma=0.25, n=5000)
        >>> header = RunHeader("model", data.sha256, settings, classes=2, noise_law="gaussian-255")
        >>> with tempfile.TemporaryDirectory() as folder, open_store(Path(folder), header) as store:
        ...     (row,) = run_smoothing(sign, data, classes=2, settings=settings, store=store)
        >>> row.predicted, 0.3 < row.radius < (230 - 127) / 255  # the distance to the nearest input of class 0
        (1, True)
    """
    placement = Placement(str(device), batch, workers, engine)
    return _examples_of(
        smoothing_events(predict, dataset, classes=classes, settings=settings, store=store, placement=placement)
    )


def smoothing_events(
    predict: Callable[[Tensor], Tensor],
    dataset: Dataset,
    *,
    classes: int,
    settings: SmoothingSettings,
    store: Store,
    placement: Placement = ONE_CORE,
    scales: NDArray[np.float64] | None = None,
) -> Events[SmoothingExample]:
    """Yield the certified examples of a run in order, and between them how far it is.

    Args:
        predict: The base classifier, normalisation included: inputs ``[B, *input_shape]`` to logits ``[B, classes]``,
            on the device of ``placement`` and in the dtype of the settings. It must be a function of each input alone.
        dataset: The examples.
        classes: Number of classes.
        settings: The settings; those of the store's header.
        store: The open store of this run: its blocks are used, new ones are added.
        placement: Where and how forward passes take place. Never changes a count.
        scales: Those of the noise, where each coordinate has its own; the array that the settings name by its hash.

    Raises:
        InputError: If the settings, the data or the store do not fit.
        NoRuleError: If the network is no function of its input.
        InterruptedRun: After SIGINT or SIGTERM; finished blocks are in the store.
    """
    check_data(dataset)
    if settings.scores is not UNSET:
        raise InputError("expected settings of votes, got soft scores; run these with certify.smooth")
    law = make_law(settings, eight_bit=dataset.eight_bit, scales=scales)
    shape = dataset.examples[0].stored.shape
    procedure = plan_procedure(settings, classes=classes, law=law, dimension=int(np.prod(shape)))
    task = Classification(procedure)
    return task_events(predict, dataset, task, law, store=store, placement=placement)


def task_events(
    predict: Callable[[Tensor], Tensor],
    dataset: Dataset,
    task: Task[Row],
    law: NoiseLaw,
    *,
    store: Store,
    placement: Placement = ONE_CORE,
) -> Events[Row]:
    """Yield the rows of any task in the order of the data set, and progress between them; see `smoothing_events`.

    Args:
        predict: The base network, whose outputs the task's reading takes.
        dataset: The examples; `check_data` has been through them.
        task: What is asked of the outputs.
        law: The noise.
        store: The open store of this run, opened for the task's reading.
        placement: Where and how forward passes take place.

    Raises:
        InputError: If the settings, the data or the store do not fit.
        NoRuleError: If the network is no function of its input.
        InterruptedRun: After SIGINT or SIGTERM; finished blocks are in the store.
    """
    network = base_network(predict, device=placement.device, dtype=task.settings.dtype)
    _check_store(store, dataset, task, law, network)
    size = _rows_per_pass(task, placement.rows or store.micro_batch())
    return SmoothingLoop(network, law, task, dataset, store, size, placement.workers, placement.engine).events()


def _rows_per_pass(task: Task[object], asked: int | None) -> int | None:
    """Return the rows of a forward pass; None leaves them to a timing, which an aligned reading does not allow."""
    if not task.reading.aligned:
        return asked
    size = BLOCK_DRAWS if asked is None else asked
    if BLOCK_DRAWS % size:
        raise InputError(
            f"expected a batch that divides {BLOCK_DRAWS}, got {size}: the last bits of soft outputs count, and must "
            "not depend on the company of a row; leave --batch out"
        )
    return size


def is_complete(store: Store, dataset: Dataset, task: Task[object]) -> bool:
    """Return whether a store holds every block that a task asks for, of every example.

    Raises:
        InputError: If the store holds blocks that the task does not ask for.
    """
    return all(Job(example, task, store.rows(example_key(example))).done for example in dataset)


def _examples_of(events: Events[SmoothingExample]) -> Iterator[SmoothingExample]:
    with contextlib.closing(events):
        for event in events:
            if isinstance(event, SmoothingExample):
                yield event


def check_data(dataset: Dataset) -> None:
    """Refuse data without examples, with several shapes, with values that are not finite, or with one example twice.

    Raises:
        InputError: If so.
    """
    if not len(dataset):
        raise InputError("expected at least one example, got none; check the data and the selection")
    shape = dataset.examples[0].stored.shape
    keys = set()
    for example in dataset:
        if example.stored.shape != shape:
            raise InputError(f"{example.id}: expected shape {shape} like the first example, got {example.stored.shape}")
        if not np.isfinite(example.stored).all():
            raise InputError(f"{example.id}: expected finite values, got NaN or infinity; remove the example")
        keys.add(example_key(example))
    if len(keys) != len(dataset):
        raise InputError("expected every example once, got two with one id and one content; remove the duplicates")


def _check_store(store: Store, dataset: Dataset, task: Task[object], law: NoiseLaw, network: BaseNetwork) -> None:
    asked = {
        "data_sha256": dataset.sha256,
        "settings": task.settings,
        "classes": task.reading.classes,
        "reading": header_name(task.reading),
        "noise_law": law.name,
        "device_kind": network.device.type,
        "noise_source": source_name(network.device),
    }
    for name, value in asked.items():
        if getattr(store.header, name) != value:
            got = getattr(store.header, name)
            raise InputError(f"{store.path}: expected a store opened for {name} {value}, got one for {got}")
