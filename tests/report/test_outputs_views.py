"""Smoothed regressions and segmentations in every view that has a place for them; the others refuse by name."""

import unicodedata

import pytest
from msgspec.structs import replace

from certify.errors import InputError
from certify.report import FORMATS
from certify.results import (
    DataRecord,
    Execution,
    Falsifier,
    OutputInterval,
    OutputsReport,
    OutputsSummary,
    Regression,
    RegressionExample,
    Segmentation,
    SegmentationExample,
    SmoothingSettings,
    seal,
)
from tests.report.hostile_reports import HOSTILE
from tests.report.page_structure import Page, faults
from tests.report.sample_reports import TOOL, model_record, noise_tables, sha256, smoothing_clean

INTERVALS = (
    OutputInterval(lower=0.123456789, upper=0.987654321, estimate=0.5, invalid=0),
    OutputInterval(lower=None, upper=2.0, estimate=1.0, invalid=3),
)


def regression(name="a"):
    rows = (
        RegressionExample(
            index=0, id=name, hash=sha256("a"), radius=0.25, outputs=INTERVALS, n0=16, n=100, seed=0, seconds=0.5
        ),
    )
    summary = OutputsSummary(examples=1, outputs=2, certified=1, mean_width=0.87)
    return report_of(Regression(radius=0.25), rows, summary, (2,))


def segmentation(name="a"):
    rows = (
        SegmentationExample(
            index=0,
            id=name,
            hash=sha256("a"),
            radius=0.1,
            selected=(0, 1, 1),
            agreements=(100, 60, 100),
            predicted=(0, None, 1),
            n0=16,
            n=100,
            seed=0,
            seconds=0.5,
        ),
    )
    return report_of(Segmentation(), rows, OutputsSummary(examples=1, outputs=3, certified=2, mean_width=None), (3,))


def report_of(task, rows, summary, shape):
    settings = SmoothingSettings(sigma=0.25, n=100, n0=16, task=task)
    return seal(
        OutputsReport(
            tool=TOOL,
            model=model_record(),
            output_shape=shape,
            data=DataRecord(sha256=sha256("data"), count=1, selection="all 1"),
            settings=settings,
            statement=smoothing_clean().statement,
            tables=noise_tables(settings),
            examples=rows,
            summary=summary,
            falsifier=Falsifier(level="off", tried="", found=0),
            execution=Execution(),
        )
    )


@pytest.mark.parametrize("name", ["terminal", "json", "markdown", "html"])
@pytest.mark.parametrize("build", [regression, segmentation])
def test_every_view_with_a_place_shows_what_is_certified(build, name):
    report = replace(build(HOSTILE), output_shape=build().output_shape)
    text = FORMATS[name](report)
    assert not {c for c in text if unicodedata.category(c)[0] == "C"} - {"\n"}
    shown = Page(text).all("main")[0].text if name == "html" else text
    if name == "html":
        assert faults(text) == []
    if name != "json":
        words = "[0.12345, 0.98766]" if build is regression else "2 of 3 pixels"
        assert words in shown.replace("&#91;", "[").replace("&#93;", "]")


@pytest.mark.parametrize("name", ["csv", "tsv", "junit", "card"])
def test_the_other_views_refuse_by_name(name):
    with pytest.raises(InputError, match="terminal, json, markdown, html"):
        FORMATS[name](regression())
