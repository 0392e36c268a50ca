"""The page: one report, or several with their curves compared, laid out by the templates of this package."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from certify._version import __version__
from certify.report.compared import compared_section
from certify.report.neutralise import strip_controls
from certify.report.outline import Block, Outline, Table
from certify.report.sections import outline_of
from certify.results import Document

OPEN_TOGETHER = 20  # rows of examples that stand open where several reports share a page


@dataclass(frozen=True)
class NamedReport:
    """A report, the name it goes by on the page (its file), and what is shown beside it.

    ``warning`` says that the report contradicts itself, and where; ``pictures`` has a PNG in base64 for the hash of an
    example.
    """

    name: str
    report: Document
    warning: str = ""
    pictures: Mapping[str, str] | None = None


def render_html(report: Document, *, width: int | None = None, color: bool = False) -> str:  # noqa: ARG001 - one table
    """Return one report as a page of HTML."""
    return render_html_page([NamedReport("", report)])


def render_html_page(reports: Sequence[NamedReport]) -> str:
    """Return one page of HTML for one report or several; several have their curves compared first."""
    outlines = [outline_of(named.report, pictures=named.pictures) for named in reports]
    outlines = [_folded(outline) for outline in outlines] if len(reports) > 1 else outlines
    names = [named.name or f"report {number}" for number, named in enumerate(reports, start=1)]
    several = len(reports) > 1
    shared = compared_section(names, [named.report for named in reports], outlines) if several else None
    title = f"{len(reports)} reports compared" if several else outlines[0].title
    environment = _environment()
    return environment.get_template("page.html").render(
        title=title,
        policy=content_policy(pictures=any(named.pictures for named in reports)),
        shared=shared,
        parts=[(name, outline, named.warning) for name, outline, named in zip(names, outlines, reports, strict=True)],
        version=__version__,
    )


def _folded(outline: Outline) -> Outline:
    """Return an outline whose long tables of examples are folded: beside others, a report is read from its figures."""
    return replace(outline, sections=tuple(replace(each, blocks=_short(each.blocks)) for each in outline.sections))


def _short(blocks: Sequence[Block]) -> tuple[Block, ...]:
    return tuple(
        replace(block, folded=True)
        if isinstance(block, Table) and block.sortable and block.count > OPEN_TOGETHER
        else block
        for block in blocks
    )


@cache
def _environment() -> Environment:
    """Return the templates' environment: every text is escaped, a missing name is an error."""
    return Environment(
        loader=PackageLoader("certify.report.html_view"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_neutralise,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _neutralise(value: object) -> object:
    """Remove what steers or reorders from every text, before it is escaped; what a template made stays as it is."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else strip_controls(value)


def content_policy(*, pictures: bool) -> str:
    """Return the content policy of a page: its own style and script by their hash, images inside the file, no more.

    A browser runs nothing else: no attribute, no address, no text that slipped through.
    """
    images = "; img-src data:" if pictures else ""
    style, script = _fingerprint("style.css"), _fingerprint("sort.js")
    return (
        f"default-src 'none'; style-src '{style}'; script-src '{script}'{images}; base-uri 'none'; form-action 'none'"
    )


def _fingerprint(name: str) -> str:
    """Return the hash of what stands between the tags, byte for byte: the line break before, and the file."""
    text = "\n" + _environment().get_template(name).render()
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
