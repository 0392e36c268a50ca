"""The results of a report for the head of a model card: a ``model-index`` block in YAML.

The block is what the Hugging Face Hub reads from the metadata of a ``README.md``: results, each with a task, a data set
and metrics, each metric with its ``args``. Certified accuracy is a metric at one radius, and its arguments say what the
number is worth: norm, radius, what was certified, how often a certificate may be false, and the limits over examples.

The text is written so that every parser of YAML 1.1 and 1.2 reads the same: strings are double-quoted, floats have a
point, nothing is left to guessing. A radius and a lower limit are rounded down, an upper one up, in the last digit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from msgspec import UNSET

from certify.report.figures import lower_digits, radius_label, upper_digits
from certify.report.neutralise import strip_controls
from certify.report.promise_words import INTEGER_NOISE_LAWS, points_words, promise_words, scores_in_use, scores_words
from certify.report.wording import answers_known, until_zero
from certify.results import CertifiedAccuracy, CertifiedCount, LipschitzReport, Report, SmoothingReport, Summary

HEAD = (
    "# Paste into the metadata of the model card. Put in the names of model and data set as the Hub knows them:\n"
    "# a report knows only their hashes.\n"
)
NUMBER_WITHOUT_POINT = re.compile(r"^(-?\d+)(e[-+]?\d+)?$")
TASKS: Mapping[int, str] = MappingProxyType({1: "tabular-classification", 3: "image-classification"})
TEXT_MOST = 1000  # characters of one string

Yaml: TypeAlias = "str | int | Mapping[str, Yaml] | Sequence[Yaml]"


class Number(str):
    """The digits of a float, already rounded to their side."""

    __slots__ = ()


def render_card(report: Report, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return the block; a report without bound and without data has an empty list of results."""
    return render_cards([report])


def render_cards(reports: Sequence[Report]) -> str:
    """Return one block for reports of one model or of several: for each model the results of all its reports."""
    results: dict[str, list[Yaml]] = {}
    for report in reports:
        metrics = [*_network(report), *_accuracies(report)]
        result: Yaml = {"task": _task(report), "dataset": _dataset(report), "metrics": metrics}
        results.setdefault(report.model.sha256, []).extend([result] if metrics else [])
    models: Yaml = [{"name": f"model of sha256 {model[:16]}", "results": found} for model, found in results.items()]
    return HEAD + "".join(f"{line}\n" for line in yaml_lines({"model-index": models}))


def _task(report: Report) -> Yaml:
    return {"type": TASKS.get(len(report.model.input.shape), "other"), "name": "certified classification"}


def _dataset(report: Report) -> Yaml:
    if report.data is UNSET:
        return {"type": "other", "name": "none: the bound holds for every input"}
    data = report.data
    return {
        "type": "other",
        "name": f"{data.selection}, sha256 {data.sha256[:16]}",
        "args": {"sha256": data.sha256, "examples": data.count},
    }


def _network(report: Report) -> Iterator[Yaml]:
    """Yield the Lipschitz bound, where there is a proved one."""
    if isinstance(report, LipschitzReport) and report.network.upper is not None and report.network.proved:
        network = report.network
        yield {
            "type": "lipschitz_constant",
            "name": f"Lipschitz constant of the logits, {network.norm}, proved upper bound",
            "value": Number(upper_digits(report.network.upper)),
            "args": {"norm": network.norm, "method": network.method, **_claim(report)},
        }


def _accuracies(report: Report) -> Iterator[Yaml]:
    if report.summary is UNSET:
        return
    summary = report.summary
    if summary.clean_accuracy is not None:
        clean = Number(repr(summary.clean_accuracy))
        yield {"type": "accuracy", "name": "Clean accuracy", "value": clean, "args": _claim(report)}
    for row in until_zero(summary.certified_accuracy):
        yield _accuracy(report, row, summary)
    for count in () if summary.certified_counts is UNSET else summary.certified_counts:
        yield _count(report, count)


def _accuracy(report: Report, row: CertifiedAccuracy, summary: Summary) -> Yaml:
    limits = {
        "lower": Number(lower_digits(row.lower)),
        "upper": Number(upper_digits(row.upper)),
        "confidence": Number(repr(row.confidence)),
    }
    kind, name = _measured(report)
    return {
        "type": kind,
        "name": f"{name}, {_norm(report)} radius {radius_label(row.radius)}",
        "value": Number(repr(row.accuracy)),
        "args": {**_at(report, row.radius), "examples": summary.examples, **limits, **_claim(report)},
    }


def _count(report: Report, row: CertifiedCount) -> Yaml:
    """Return what a run that stopped early shows: of all examples at least so many."""
    least = Number(lower_digits(row.at_least / row.examples if row.examples else 0.0))
    kind, name = _measured(report)
    return {
        "type": kind,
        "name": f"{name}, {_norm(report)} radius {radius_label(row.radius)}, at least",
        "value": least,
        "args": {
            **_at(report, row.radius),
            "examples": row.examples,
            "at_least": row.at_least,
            "at_most": row.at_most,
            **_claim(report),
        },
    }


def _measured(report: Report) -> tuple[str, str]:
    """Return type and name of a share of certified examples: among the k likeliest it is another metric."""
    if answers_known(report):
        return "certified_accuracy", "Certified accuracy"
    return "certified_top_k_accuracy", "Label certified among the k likeliest"


def _at(report: Report, radius: float) -> dict[str, Yaml]:
    return {"norm": _norm(report), "radius": Number(lower_digits(radius)), "space": report.model.input.space}


def _norm(report: Report) -> str:
    return report.settings.norm


def _claim(report: Report) -> dict[str, Yaml]:
    """Return what a certificate of the report promises, for people who see the number alone."""
    statement = report.statement
    claim: dict[str, Yaml] = {
        "object": statement.object,
        "arithmetic": statement.arithmetic,
        "failure_probability": Number(repr(statement.failure_probability)),
        "model_sha256": report.model.sha256,
        "report_digest": report.digest,
        "certify": report.tool.version,
    }
    return {**_smoothed(report), **claim} if isinstance(report, SmoothingReport) else claim


def _smoothed(report: SmoothingReport) -> dict[str, Yaml]:
    """Return what is smoothed, how, and what is certified of it."""
    settings, scores = report.settings, scores_in_use(report.tables)
    points = points_words(settings, report.model, on_grid=report.tables.noise_law in INTEGER_NOISE_LAWS)
    found: dict[str, Yaml] = {
        "sigma": Number(repr(settings.sigma)),
        "n": settings.n,
        "noise": settings.noise,
        "task": "class" if settings.top_k == 1 else "top-k",
        "k": settings.top_k,
        "promise": f"the smoothed classifier {promise_words(settings)} {points}",
    }
    if scores is not None:
        found["answer"] = scores_words(scores.map, scores.temperature)
    if settings.scales is not UNSET:
        found["scales_sha256"] = settings.scales.sha256
    return found


def yaml_lines(value: Yaml, indent: str = "") -> Iterator[str]:
    r"""Yield the lines of a block of YAML.

    Example:
        >>> print("\n".join(yaml_lines({"a": [{"b": "no", "c": Number("1e-3")}], "d": []})))
        a:
        - b: "no"
          c: 1.0e-3
        d: []
    """
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _entry(f"{indent}{key}:", child, indent)
    elif not isinstance(value, str | int):
        for child in value:
            first, *rest = yaml_lines(child, f"{indent}  ")
            yield f"{indent}- {first[len(indent) + 2 :]}"
            yield from rest


def _entry(head: str, child: Yaml, indent: str) -> Iterator[str]:
    if isinstance(child, str | int):
        yield f"{head} {_scalar(child)}"
    elif not child:
        yield f"{head} {'{}' if isinstance(child, Mapping) else '[]'}"
    else:
        yield head
        yield from yaml_lines(child, f"{indent}  " if isinstance(child, Mapping) else indent)


def _scalar(value: str | int) -> str:
    """Return one value; characters outside the ASCII stay as they are, since YAML knows no surrogate pairs."""
    if isinstance(value, Number):
        return NUMBER_WITHOUT_POINT.sub(lambda found: f"{found[1]}.0{_signed(found[2] or '')}", value)
    if isinstance(value, int):
        return str(value)
    return json.dumps(strip_controls(value)[:TEXT_MOST], ensure_ascii=False)


def _signed(exponent: str) -> str:
    return exponent if exponent[1:2] in ("", "-", "+") else f"e+{exponent[1:]}"
