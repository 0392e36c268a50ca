"""What a smoothing run is before its store is opened: its header, its reading, what is proved of its logits."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from msgspec import UNSET

from certify.bounds import (
    logit_facts,
)
from certify.errors import InputError
from certify.examples import Dataset
from certify.graph import fold_batch_norm
from certify.loading import Model, check_dataset
from certify.results import (
    SmoothingSettings,
    Unbounded,
)
from certify.smoothing import (
    Reading,
    RunHeader,
    check_settings,
    law_name,
)
from certify.smoothing.noise_source import source_name
from certify.smoothing.soft_classification import LogitBound, check_score_settings, score_reading
from certify.smoothing.soft_run import enclosing_ball
from certify.smoothing.votes import Votes

STORE_FOLDER = ".certify_cache"
PROGRAM = "eager, batch norm folded"


def open_question(
    model: Model, data: Dataset, settings: SmoothingSettings, device: str
) -> tuple[RunHeader, Reading, LogitBound | None]:
    """Return what a run is and reads, and with soft scores what is proved about its logits."""
    header, classes = _header(model, data, settings, device), len(model.classes)
    if settings.scores is UNSET:
        return header, Votes(classes), None
    bound = bound_logits(model, data, settings, device)
    reading = score_reading(settings, classes, bound)
    return replace(header, reading=reading.name), reading, bound


def bound_logits(model: Model, data: Dataset, settings: SmoothingSettings, device: str = "cpu") -> LogitBound:
    """Return what is proved about the logits of the network as it is run, near all examples with noise.

    Its Lipschitz constant is that of `lipschitz` for the network with batch norm folded, and the error that of its
    program in float32 or float64 on a CPU; elsewhere nothing bounds the error, and nothing is used.

    Raises:
        InputError: If the network's tensors are not finite.
    """
    if device != "cpu" or settings.dtype == "bfloat16" or settings.compile is True:
        return LogitBound(reason=f"no bound on the rounding error of logits in {settings.program} on {device}")
    centre, reach = enclosing_ball(data, settings.sigma)
    folded = fold_batch_norm(model.graph.to(torch.float64))
    found = logit_facts(folded, torch.from_numpy(centre), reach, settings.dtype)
    if isinstance(found, Unbounded):
        return LogitBound(reason=str(found))
    if not (math.isfinite(found.lipschitz) and math.isfinite(found.error)):
        return LogitBound(reason="the bounds of the logits are not finite")
    return LogitBound(found.lipschitz, found.error)


def _header(model: Model, data: Dataset, settings: SmoothingSettings, device: str) -> RunHeader:
    """Return what a run is, after checking that its data fit its model."""
    check_settings(settings)
    check_score_settings(settings)
    check_dataset(data, input=model.input, classes=model.classes)
    return RunHeader(
        model_sha256=model.sha256,
        data_sha256=data.sha256,
        settings=settings,
        classes=len(model.classes),
        noise_law=law_name(settings, eight_bit=data.eight_bit),
        network_sha256=model.graph.sha256,
        device_kind=device.partition(":")[0],
        noise_source=source_name(device),
        program=_program(settings),
    )


def _program(settings: SmoothingSettings) -> str:
    """Return how the network is run, in words.

    Raises:
        InputError: If two choices exclude each other.
    """
    if settings.compile is not True:
        return f"{PROGRAM}, channels-last" if settings.channels_last is True else PROGRAM
    if settings.channels_last is True:
        raise InputError(
            "expected --channels-last without --compile, which chooses memory formats itself; leave one out"
        )
    return "compiled by torch.compile, batch norm folded"
