"""Smoothing of networks whose outputs are no classes: regression and segmentation, from data to a sealed report."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import UNSET
from numpy.typing import NDArray
from torch import nn

from certify._version import __version__
from certify.errors import InputError
from certify.examples import Dataset, Example
from certify.falsifier import OFF
from certify.loading import Model
from certify.loading.network import Network, trace_network
from certify.report.outputs import outputs_statement, summarise_outputs
from certify.results import (
    DataRecord,
    Execution,
    OutputsReport,
    Regression,
    RegressionExample,
    Segmentation,
    SegmentationExample,
    SmoothingSettings,
    Tables,
    Tool,
    seal,
)
from certify.runs.opening import PROGRAM
from certify.smoothing import NoiseLaw, RunHeader, check_settings, earlier_runs, earlier_seeds, make_law, open_store
from certify.smoothing.base_network import DTYPES
from certify.smoothing.noise_source import noise_source, source_name
from certify.smoothing.placement import ONE_CORE, Placement
from certify.smoothing.regression import MedianSmoothing, regression_task
from certify.smoothing.run import check_data, task_events
from certify.smoothing.scales import check_scales, describe_scales
from certify.smoothing.segmentation import PixelSmoothing, segmentation_task
from certify.stats import charged_alpha, noise_charge, self_test

NO_LABEL = -1  # certificates of these tasks need no labels, and their examples have none


def smooth_outputs(
    model: Model | nn.Module,
    data: Dataset | NDArray[Any],
    settings: SmoothingSettings,
    task: Regression | Segmentation,
    *,
    store: str | Path,
    placement: Placement = ONE_CORE,
    restart: bool = False,
    scales: object = None,
) -> OutputsReport:
    """Return the report of a smoothed regression or segmentation; every example gets exactly n draws.

    `certify.smoothing.regression` and `certify.smoothing.segmentation` state and prove what holds. Labels play no
    part. Nothing is attacked, and the report says so.

    Args:
        model: A loaded model, or a module in memory, which is traced.
        data: Examples, or an array of inputs ``[N, *input_shape]`` (uint8 pixels, or floats).
        settings: sigma, alpha, n, n0, dtype and seed; see `certify.results.SmoothingSettings`.
        task: What is asked of the outputs.
        store: Folder of the run store.
        placement: Where and how forward passes take place.
        restart: Discard what an earlier run of the same settings has left.
        scales: Those of the noise, per coordinate, or None; see `certify.smooth`.

    Raises:
        InputError: If data, settings and task do not go together.
        NoRuleError: If the module has an operation outside the vocabulary, or the network is no function of its input.
    """
    self_test()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    examples = without_labels(data)
    network = trace_network(model, examples.examples[0].stored.shape)
    _check_range(examples, network)
    sizes = None if scales is None else check_scales(scales, network.input.shape)
    settings = _task_settings(settings, task, sizes)
    law = make_law(settings, eight_bit=examples.eight_bit, scales=sizes)
    asked = _task_of(settings, task, network, law)
    header = RunHeader(
        model_sha256=network.sha256,
        data_sha256=examples.sha256,
        settings=settings,
        classes=asked.reading.classes,
        noise_law=law.name,
        network_sha256=network.graph.sha256,
        device_kind=placement.device.partition(":")[0],
        noise_source=source_name(placement.device),
        program=PROGRAM,
        reading=asked.reading.name,
    )
    predict = network.predict(placement.device, DTYPES[settings.dtype])
    with open_store(Path(store), header, reading=asked.reading, restart=restart) as opened:
        rows = tuple(_rows(task_events(predict, examples, asked, law, store=opened, placement=placement)))
        execution = Execution(
            model_path=network.path,
            batch=str(placement.batch),
            micro_batch=opened.micro_batch() or 0,
            workers=placement.workers,
            engine=placement.engine,
            threads=torch.get_num_threads(),
            started=started,
            earlier_seeds=earlier_seeds(opened.path.parent, header),
            earlier_runs=earlier_runs(opened.path.parent, header) or UNSET,
        )
    return _report(network, examples, settings, law, rows, execution, header.device_kind)


def without_labels(data: Dataset | NDArray[Any]) -> Dataset:
    """Return the examples of a data set or an array of inputs, without labels.

    Raises:
        InputError: If the array is not of uint8, float32 or float64, or there are no examples, or one twice.

    Example:
        >>> [example.id for example in without_labels(np.zeros((2, 3), dtype=np.uint8))]
        ['row 0', 'row 1']
    """
    if isinstance(data, Dataset):
        found = tuple(Example(row.index, row.id, NO_LABEL, row.stored) for row in data)
        plain = Dataset(found, total=data.total, selection=data.selection)
    else:
        array = np.asarray(data)
        if array.dtype not in (np.uint8, np.float32, np.float64) or array.ndim < 2:
            raise InputError(f"expected inputs [N, ...] of uint8, float32 or float64, got {array.dtype} {array.shape}")
        found = tuple(Example(k, f"row {k}", NO_LABEL, row) for k, row in enumerate(array))
        plain = Dataset(found, total=len(found), selection="all rows of an array")
    check_data(plain)
    return plain


def _check_range(data: Dataset, network: Network) -> None:
    bounds = network.input.range
    for example in data if bounds is not None else ():
        values = example.values()
        if bounds is not None and not (values.min() >= bounds[0] and values.max() <= bounds[1]):
            raise InputError(f"{example.id}: expected values within {list(bounds)}, got others; check the input space")


def _task_settings(
    settings: SmoothingSettings, task: Regression | Segmentation, sizes: NDArray[np.float64] | None
) -> SmoothingSettings:
    """Return the settings of the run: the task in them, and a fixed number of draws.

    Raises:
        InputError: If they ask for what these tasks have no proof for.
    """
    check_settings(settings)
    refused = (
        (settings.noise == "gaussian", f"Gaussian noise, got {settings.noise}"),
        (not settings.at, "no asked radii, got some"),
        (settings.scores is UNSET, "hard scores, got soft ones"),
    )
    for holds, expected in refused:
        if not holds:
            raise InputError(f"expected {expected}: regression and segmentation are not proved otherwise")
    if (settings.compile, settings.channels_last) != (UNSET, UNSET):
        raise InputError("expected neither compile nor channels_last: networks of these tasks run as they are")
    scales = UNSET if sizes is None else describe_scales(sizes)
    return msgspec.structs.replace(settings, task=task, procedure="fixed", scales=scales)


def _charge(settings: SmoothingSettings, network: Network, law: NoiseLaw) -> float:
    return noise_charge(settings.n, network.input.size, law.levels) if law.levels else 0.0


def _task_of(
    settings: SmoothingSettings, task: Regression | Segmentation, network: Network, law: NoiseLaw
) -> MedianSmoothing | PixelSmoothing:
    try:
        alpha = charged_alpha(settings.alpha, _charge(settings, network, law))
    except ValueError as error:
        raise InputError(str(error)) from error
    shape = network.output_shape
    if isinstance(task, Regression):
        return regression_task(settings, task, shape=shape, law=law.name, alpha=alpha)
    return segmentation_task(settings, task, shape=shape, law=law.name, alpha=alpha)


def _rows(events: Any) -> Iterator[RegressionExample | SegmentationExample]:  # noqa: ANN401 - rows of either task
    for event in events:
        if isinstance(event, RegressionExample | SegmentationExample):
            yield event


def _report(
    network: Network,
    data: Dataset,
    settings: SmoothingSettings,
    law: NoiseLaw,
    rows: tuple[RegressionExample | SegmentationExample, ...],
    execution: Execution,
    device_kind: str,
) -> OutputsReport:
    tables = Tables(
        plan=None,
        plan_sha256=None,
        noise=f"{law.words}; {noise_source(device_kind).words}",
        noise_law=law.name,
        alpha_charged=_charge(settings, network, law),
    )
    record, shape, count = network.record, network.output_shape, len(data)
    return seal(
        OutputsReport(
            tool=Tool(
                version=__version__,
                python=platform.python_version(),
                torch=str(torch.__version__),
                device_kind=device_kind,
                dtype=settings.dtype,
            ),
            model=record,
            output_shape=shape,
            data=DataRecord(sha256=data.sha256, count=count, selection=data.selection, eight_bit=data.eight_bit),
            settings=settings,
            statement=outputs_statement(settings=settings, model=record, tables=tables, shape=shape, examples=count),
            tables=tables,
            examples=rows,
            summary=summarise_outputs(rows),
            falsifier=OFF,
            execution=execution,
        )
    )
