"""Named reports that the tests of every view, gate and check share: `SAMPLES` is name -> builder.

Their certificates are put together here from the primitives of `certify.stats`, step by step as the procedure is
defined, and not by the code that checks them. Each is built once: reports are frozen.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from certify.policy import Gate, evaluate_gates
from certify.report import lipschitz_statement, smoothing_statement, summarise_lipschitz, summarise_smoothing
from certify.results import (
    Counts,
    DataRecord,
    Decision,
    Execution,
    Falsifier,
    InputSpace,
    LayerRow,
    LipschitzExample,
    LipschitzReport,
    LipschitzSettings,
    ModelRecord,
    NetworkBound,
    Report,
    SequentialTable,
    SmoothingExample,
    SmoothingReport,
    SmoothingSettings,
    Tables,
    Tool,
    UnsampledExample,
    dump_json,
    seal,
)
from certify.rounding import div_down, sub_down
from certify.stats import BOUNDS, SequentialTest, charged_alpha, noise_charge, sample_plan, sequential_test

CLASSES = ("cat", "dog", "ship")
TOOL = Tool(version="0.1.0", python="3.11.2", torch="2.13.0", device_kind="cpu", dtype="float64")
NOISE = {
    True: "Gaussian noise rounded to whole 1/255 levels, drawn exactly (float-sound on 8-bit inputs)",
    False: "float64 Gaussian noise added in float64 (not float-sound)",
}
SOURCE = "from numpy's Philox, assumed ideal, keyed by (seed, example, purpose, block, law)"
QUICK = Falsifier(level="quick", tried="PGD, 20 steps, 2 starts on every certificate", found=0)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def model_record(classes: Sequence[str] = CLASSES) -> ModelRecord:
    space = InputSpace(shape=(3, 8, 8), range=(0.0, 1.0), space="pixels")
    return ModelRecord(
        sha256=sha256("model"), source="certify safetensors", input=space, classes=tuple(classes), parameters=12_345
    )


def data_record(examples: Sequence[LipschitzExample | SmoothingExample]) -> DataRecord:
    rows = [[example.id, example.label, example.hash] for example in examples]
    return DataRecord(sha256=sha256(dump_json(rows)), count=len(examples), selection="first rows of 10000")


# ---- Lipschitz -----------------------------------------------------------------------------------------------------


def lipschitz_example(index: int, margin: float, *, label: int = 1, predicted: int = 1, gain: float = 2.5, norm="l2"):
    error = 2.0**-40
    radius = max(0.0, div_down(sub_down(margin, error), gain))
    certified = radius > 0.0
    return LipschitzExample(
        index=index,
        id=f"dog/{index:05d}.png",
        hash=sha256(f"image {index}"),
        label=label,
        predicted=predicted if certified else None,
        correct=certified and predicted == label,
        radius=radius,
        norm=norm,
        clean_predicted=predicted,
        method="pairwise product",
        margin_lower=margin,
        gain_upper=gain,
        error_upper=error,
        seconds=0.25,
        reason=UNSET if certified else "margin does not exceed its error",
    )


def unbounded_example(index: int) -> LipschitzExample:
    return LipschitzExample(
        index=index,
        id=f"dog/{index:05d}.png",
        hash=sha256(f"image {index}"),
        label=1,
        predicted=None,
        correct=False,
        radius=0.0,
        norm="l2",
        clean_predicted=1,
        method="none",
        margin_lower=None,
        gain_upper=None,
        error_upper=None,
        seconds=0.25,
        reason="unbounded: no rule for softmax attention at blocks.0.attn",
    )


LAYERS = (
    LayerRow(name="conv1", kind="conv2d", shape=(16, 3, 3, 3), upper=1.23456789, lower=1.2345678, method="gram"),
    LayerRow(name="relu1", kind="relu", shape=(), upper=1.0, lower=None, method="slope at most 1"),
    LayerRow(name="fc", kind="linear", shape=(3, 256), upper=2.0, lower=2.0, method="enclosure"),
)
ATTENTION = LayerRow(
    name="blocks.0.attn", kind="attention", shape=(64, 64), upper=None, lower=None, method="no rule for attention"
)
BOUND = NetworkBound(
    norm="l2", upper=2.46913578, lower=0.5, method="product", proved=True, data_floor=0.8, slope_floor=0.75
)
NO_BOUND = NetworkBound(
    norm="l2", upper=None, lower=None, method="product", proved=True, reason="no rule for softmax attention"
)


def lipschitz_report(
    examples: Sequence[LipschitzExample] | None,
    gates: Sequence[Gate] = (),
    *,
    network: NetworkBound = BOUND,
    layers: Sequence[LayerRow] = LAYERS,
    classes: Sequence[str] = CLASSES,
) -> LipschitzReport:
    """Build a sealed report; ``examples`` None means without data."""
    settings, model = LipschitzSettings(norm=network.norm), model_record(classes)
    rows = tuple(examples or ())
    report = LipschitzReport(
        tool=TOOL,
        model=model,
        data=UNSET if examples is None else data_record(rows),
        statement=lipschitz_statement(settings=settings, model=model, network=network, examples=rows),
        summary=UNSET if examples is None else summarise_lipschitz(rows, settings),
        falsifier=QUICK if rows else Falsifier(level="off", tried="", found=0),
        execution=Execution(model_path="model.safetensors", seconds=1.5),
        settings=settings,
        network=network,
        layers=tuple(layers),
        examples=rows,
    )
    return seal(replace(report, gates=evaluate_gates(report, gates)))


@functools.cache
def network_alone() -> LipschitzReport:
    return lipschitz_report(None)


@functools.cache
def lipschitz_clean() -> LipschitzReport:
    rows = [lipschitz_example(index, 0.1 + 0.02 * index) for index in range(100)]
    return lipschitz_report(rows, [gate(0.1, 0.6), gate(0.25, 0.5, claim="list"), clean_gate(0.9)])


@functools.cache
def lipschitz_mixed() -> LipschitzReport:
    rows = [lipschitz_example(0, 0.62499999), lipschitz_example(1, 1.0, predicted=2), lipschitz_example(2, 0.0)]
    return lipschitz_report(rows, [gate(0.25, 0.5)])


@functools.cache
def lipschitz_linf() -> LipschitzReport:
    network = replace(BOUND, norm="linf", upper=40.0)
    rows = [lipschitz_example(index, 0.5 + index, gain=30.0, norm="linf") for index in range(8)]
    return lipschitz_report(rows, [gate(8 / 255, 0.5, norm="linf", on="estimate")], network=network)


@functools.cache
def unbounded_network() -> LipschitzReport:
    return lipschitz_report(None, network=NO_BOUND, layers=(*LAYERS, ATTENTION))


@functools.cache
def unbounded_with_data() -> LipschitzReport:
    rows = [unbounded_example(index) for index in range(4)]
    return lipschitz_report(rows, [gate(0.1, 0.9)], network=NO_BOUND, layers=(*LAYERS, ATTENTION))


@functools.cache
def lipschitz_empty() -> LipschitzReport:
    return lipschitz_report([], [gate(0.1, 0.5), gate(0.1, 0.5, claim="list")])


# ---- smoothing -----------------------------------------------------------------------------------------------------

SETTINGS = SmoothingSettings(sigma=0.25, n=1000, n0=16, alpha=0.001, price=1e-4)


@functools.cache
def noise_tables(settings: SmoothingSettings, *, integer_noise: bool = True) -> Tables:
    planned = settings.procedure == "planned"
    plan = sample_plan(settings.n0, settings.n, settings.price, settings.alpha) if planned else None
    levels = 2 * math.ceil(12 * 255 * settings.sigma)
    return Tables(
        plan=plan,
        plan_sha256=None if plan is None else sha256(dump_json(plan)),
        noise=f"{NOISE[integer_noise]}; {SOURCE}",
        noise_law="gaussian-255" if integer_noise else "gaussian",
        alpha_charged=noise_charge(settings.n, 3 * 8 * 8, levels) if integer_noise else 0.0,
    )


def smoothing_example(
    index: int, share: float, settings: SmoothingSettings, tables: Tables, *, label: int = 1, invalid: bool = False
) -> SmoothingExample:
    """Build an example whose selected class (1) gets ``share`` of the votes, the rest going to class 0."""
    votes = round(share * settings.n0)
    selection = (settings.n0 - votes, votes, 0, 0) if not invalid else (0, 0, 0, settings.n0)
    selected = selection.index(max(selection))
    n = settings.n if tables.plan is None else tables.plan[selection[selected]]
    n = 0 if invalid else n
    hits = math.floor(share * n)
    estimation = (n - hits, hits, 0, 0)
    radius = 0.0
    if n:
        alpha = charged_alpha(settings.alpha, tables.alpha_charged)
        radius = max(0.0, BOUNDS[settings.bound](estimation, selected, alpha, settings.sigma))
    certified = radius > 0.0
    return SmoothingExample(
        index=index,
        id=f"dog/{index:05d}.png",
        hash=sha256(f"image {index}"),
        label=label,
        predicted=selected if certified else None,
        correct=certified and selected == label,
        radius=radius,
        norm="l2",
        counts=Counts(selection=selection, estimation=estimation, n0=settings.n0, n=n, seed=settings.seed),
        procedure=settings.procedure,
        seconds=0.125,
        reason=UNSET if certified else "the winner of the pilot is invalid" if invalid else f"no class: {hits} votes",
    )


def smoothing_report(
    shares: Sequence[float],
    gates: Sequence[Gate] = (),
    *,
    settings: SmoothingSettings = SETTINGS,
    integer_noise: bool = True,
    invalid: Sequence[int] = (),
) -> SmoothingReport:
    """Build a sealed report with one example for each share of votes."""
    model, tables = model_record(), noise_tables(settings, integer_noise=integer_noise)
    rows = tuple(
        smoothing_example(index, share, settings, tables, invalid=index in invalid)
        for index, share in enumerate(shares)
    )
    report = SmoothingReport(
        tool=replace(TOOL, dtype=settings.dtype),
        model=model,
        data=data_record(rows),
        statement=smoothing_statement(settings=settings, model=model, tables=tables, examples=len(rows)),
        summary=summarise_smoothing(rows, settings),
        falsifier=QUICK,
        execution=Execution(model_path="model.safetensors", earlier_seeds=(1, 7)),
        settings=settings,
        tables=tables,
        examples=rows,
    )
    return seal(replace(report, gates=evaluate_gates(report, gates)))


@functools.cache
def smoothing_clean() -> SmoothingReport:
    return smoothing_report([1.0] * 90 + [0.95] * 10, [gate(0.1, 0.6), gate(0.1, 0.9, claim="list"), clean_gate(0.9)])


@functools.cache
def smoothing_failing() -> SmoothingReport:
    return smoothing_report([1.0] * 20 + [0.2] * 30, [gate(0.25, 0.9), gate(0.0, 0.1)])


@functools.cache
def smoothing_undecided() -> SmoothingReport:
    return smoothing_report([1.0] * 33 + [0.5] * 17, [gate(0.25, 0.6), gate(0.25, 0.99)])


@functools.cache
def smoothing_abstaining() -> SmoothingReport:
    return smoothing_report([0.55, 0.5, 0.9, 1.0, 1.0], [gate(0.25, 0.2, on="estimate")], invalid=(4,))


@functools.cache
def smoothing_float_fixed() -> SmoothingReport:
    settings = replace(SETTINGS, procedure="fixed", bound="clopper-pearson", float_noise=True, n=500)
    return smoothing_report([1.0, 0.9, 0.7], settings=settings, integer_noise=False)


@functools.cache
def smoothing_empty() -> SmoothingReport:
    return smoothing_report([], [gate(0.1, 0.5)])


# ---- large ones -----------------------------------------------------------------------------------------------------


def many_lipschitz(count: int) -> LipschitzReport:
    """Build a report of many examples: margins that repeat, one in ten wrong, one in fifty without a certificate."""
    rows = [
        lipschitz_example(
            k, 0.0 if k % 50 == 49 else 0.01 + (k * 7919 % 9973) / 9973, predicted=2 if k % 10 == 3 else 1
        )
        for k in range(count)
    ]
    return lipschitz_report(rows, [gate(0.1, 0.6)])


def many_smoothing(count: int) -> SmoothingReport:
    """Build a report of many examples from a hundred different counts, one of them an abstention."""
    few = smoothing_report([0.5 + k / 200 for k in range(1, 101)])
    rows = tuple(
        replace(few.examples[k % 100], index=k, id=f"dog/{k:05d}.png", hash=sha256(f"image {k}")) for k in range(count)
    )
    report = replace(few, data=data_record(rows), examples=rows, summary=summarise_smoothing(rows, few.settings))
    return seal(replace(report, gates=evaluate_gates(report, [gate(0.1, 0.6)])))


# ---- asked radii ----------------------------------------------------------------------------------------------------

ASKED = SmoothingSettings(sigma=0.25, n=1500, n0=16, alpha=0.001, at=(0.1, 0.25))


@functools.cache
def sequential_tables(settings: SmoothingSettings) -> tuple[Tables, tuple[SequentialTest, ...]]:
    charge = noise_charge(settings.n, 3 * 8 * 8, 2 * math.ceil(12 * 255 * settings.sigma))
    alpha = charged_alpha(settings.alpha, charge)
    tests = tuple(
        sequential_test(math.nextafter(r / settings.sigma, math.inf), alpha, alpha, settings.n) for r in settings.at
    )
    rows = tuple(
        SequentialTable(radius=r, looks=t.looks, up=t.up, lo=t.lo, level=t.level, sha256=t.sha256)
        for r, t in zip(settings.at, tests, strict=True)
    )
    plain = replace(noise_tables(settings), plan=None, plan_sha256=None, sequential=rows)
    return plain, tests


def sequential_example(
    index: int, share: float, settings: SmoothingSettings, *, label: int = 1, invalid: bool = False
) -> SmoothingExample:
    """Build an example whose selected class (1) has ``share`` of the votes at every look, the rest going to class 0."""
    _, tests = sequential_tables(settings)
    votes = round(share * settings.n0)
    selection = (settings.n0 - votes, votes, 0, 0) if not invalid else (0, 0, 0, settings.n0)
    selected = selection.index(max(selection))
    n, verdicts = 0, ["not_certified" if invalid else "undecided" for _ in tests]
    for j, look in enumerate(() if invalid else tests[0].looks):
        n, now = look, math.floor((share if selected == 1 else 1.0 - share) * look)
        for q, test in enumerate(tests):
            if verdicts[q] == "undecided" and not test.lo[j] < now < test.up[j]:
                verdicts[q] = "certified" if now >= test.up[j] else "not_certified"
        if "not_certified" in verdicts:
            first = verdicts.index("not_certified")
            verdicts[first:] = ["not_certified"] * (len(verdicts) - first)
        if "undecided" not in verdicts:
            break
    hits = 0 if invalid else math.floor((share if selected == 1 else 1.0 - share) * n)
    estimation = (n - hits, hits, 0, 0) if selected == 1 else (hits, n - hits, 0, 0) if selected == 0 else (0,) * 4
    certified = [r for r, verdict in zip(settings.at, verdicts, strict=True) if verdict == "certified"]
    predicted = selected if certified else None
    return SmoothingExample(
        index=index,
        id=f"dog/{index:05d}.png",
        hash=sha256(f"image {index}"),
        label=label,
        predicted=predicted,
        correct=predicted == label,
        radius=max(certified, default=0.0),
        norm="l2",
        counts=Counts(selection=selection, estimation=estimation, n0=settings.n0, n=n, seed=settings.seed),
        procedure="sequential",
        seconds=0.125,
        stopped="gs",
        decisions=tuple(Decision(radius=r, verdict=verdict) for r, verdict in zip(settings.at, verdicts, strict=True)),
        reason=UNSET if certified else f"radius {settings.at[0]!r} not certified: {hits} of {n} votes",
    )


def sequential_report(
    shares: Sequence[float],
    gates: Sequence[Gate] = (),
    *,
    settings: SmoothingSettings = ASKED,
    invalid: Sequence[int] = (),
    unsampled: int = 0,
) -> SmoothingReport:
    """Build a sealed report of asked radii; ``unsampled`` examples follow those with shares."""
    model, (tables, _) = model_record(), sequential_tables(settings)
    rows = tuple(sequential_example(i, share, settings, invalid=i in invalid) for i, share in enumerate(shares))
    rest = tuple(
        UnsampledExample(index=i, id=f"cat/{i:05d}.png", hash=sha256(f"image {i}"), label=0)
        for i in range(len(rows), len(rows) + unsampled)
    )
    report = SmoothingReport(
        tool=replace(TOOL, dtype=settings.dtype),
        model=model,
        data=data_record([*rows, *rest]),
        statement=smoothing_statement(settings=settings, model=model, tables=tables, examples=len(rows) + unsampled),
        summary=summarise_smoothing(rows, settings, unsampled=unsampled),
        falsifier=QUICK,
        execution=Execution(model_path="model.safetensors"),
        settings=settings,
        tables=tables,
        examples=rows,
        unsampled=rest or UNSET,
    )
    return seal(replace(report, gates=evaluate_gates(report, gates)))


@functools.cache
def sequential_whole() -> SmoothingReport:
    shares = [1.0] * 30 + [0.78, 0.66, 0.3, 0.9, 0.845]
    return sequential_report(shares, [gate(0.25, 0.6), gate(0.1, 0.9), gate(0.25, 0.9, claim="list")], invalid=(2,))


@functools.cache
def sequential_few() -> SmoothingReport:
    settings = replace(ASKED, n=300)
    return sequential_report([1.0, 0.78, 0.3], [gate(0.25, 0.2, on="estimate")], settings=settings, invalid=(2,))


@functools.cache
def sequential_stopped() -> SmoothingReport:
    settings = replace(ASKED, n=300)
    return sequential_report([1.0, 1.0, 0.3], [gate(0.1, 0.5, on="estimate")], settings=settings, unsampled=1)


@functools.cache
def sequential_settled() -> SmoothingReport:
    return sequential_report([1.0] * 40 + [0.3], [gate(0.25, 0.5), gate(0.1, 0.5, claim="list")], unsampled=19)


# ---- gates ---------------------------------------------------------------------------------------------------------


def gate(radius: float, least: float, **options) -> Gate:
    options = {"name": f"{least} at {radius} {options.get('claim', '')}".strip(), **options}
    return Gate(metric="certified_accuracy", radius=radius, min=least, **options)


def clean_gate(least: float, **options) -> Gate:
    return Gate(**{"name": f"clean {least}", **options}, metric="clean_accuracy", min=least)


SAMPLES: Mapping[str, Callable[[], Report]] = {
    "network alone": network_alone,
    "lipschitz clean": lipschitz_clean,
    "lipschitz mixed": lipschitz_mixed,
    "lipschitz linf": lipschitz_linf,
    "lipschitz empty": lipschitz_empty,
    "unbounded network": unbounded_network,
    "unbounded with data": unbounded_with_data,
    "smoothing clean": smoothing_clean,
    "smoothing failing": smoothing_failing,
    "smoothing undecided": smoothing_undecided,
    "smoothing abstaining": smoothing_abstaining,
    "smoothing float fixed": smoothing_float_fixed,
    "smoothing empty": smoothing_empty,
    "sequential whole": sequential_whole,
    "sequential settled": sequential_settled,
}
