"""A page of HTML as a list of elements, and what every page of ours must be: whole, escaped, and readable by all."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "path", "rect", "circle", "link", "input", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parents: tuple[str, ...]
    text: str = ""
    inside: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """All elements in order, each with its parents and its own text; unbalanced tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(text)
        self.close()
        if self.open:
            raise ValueError(f"not closed: {[element.tag for element in self.open]}")

    def handle_starttag(self, tag, attrs):
        element = Element(tag, {name: value or "" for name, value in attrs}, tuple(e.tag for e in self.open))
        self.elements.append(element)
        for parent in self.open:
            parent.inside.append(tag)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if self.open[-1].tag != tag:
            raise ValueError(f"expected </{self.open[-1].tag}>, got </{tag}>")
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element.text += data

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]


def faults(text: str) -> list[str]:
    """Everything that is wrong with a page."""
    page = Page(text)
    return [*_leaks(page), *_policy_faults(page), *_reading_faults(page)]


def _leaks(page: Page) -> list[str]:
    found = []
    for element in page.elements:
        for name, value in element.attributes.items():
            if name.startswith("on") or name == "style":
                found.append(f"{element.tag} has {name}")
            if name in ("src", "href", "action", "srcset", "data") and not value.startswith(("#", "data:image/png;")):
                found.append(f"{element.tag} asks for {value}")
        if element.tag in ("iframe", "object", "embed", "form", "base", "link"):
            found.append(f"a {element.tag}")
    return found


def _policy_faults(page: Page) -> list[str]:
    policy = next(e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes)
    found = [] if policy.startswith("default-src 'none';") else ["the policy allows something by default"]
    found += ["the policy allows anything inline"] if "unsafe" in policy else []
    for tag in ("script", "style"):
        elements = page.all(tag)
        if len(elements) != 1:
            found.append(f"{len(elements)} of {tag}")
        digest = base64.b64encode(hashlib.sha256(elements[0].text.encode()).digest()).decode()
        if f"{tag}-src 'sha256-{digest}'" not in policy:
            found.append(f"the policy does not know the {tag}")
    return found


def _reading_faults(page: Page) -> list[str]:
    found = []
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    found += [f"id {name} twice" for name in set(ids) if ids.count(name) > 1]
    for element in page.elements:
        named = element.attributes.get("aria-labelledby", "").split()
        named += [element.attributes["href"][1:]] if element.attributes.get("href", "").startswith("#") else []
        found += [f"{element.tag} names {name}, which is not there" for name in named if name not in ids]
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch("h[1-6]", element.tag)]
    found += [] if levels.count(1) == 1 else ["not one h1"]
    found += [f"h{low} then h{high}" for low, high in itertools.pairwise(levels) if high > low + 1]
    found += ["svg without a title"] * sum("title" not in e.inside for e in page.all("svg"))
    found += ["image without words"] * sum(not e.attributes.get("alt") for e in page.all("img"))
    found += ["table without caption or heads"] * sum(not {"caption", "th"} <= set(e.inside) for e in page.all("table"))
    found += ["not one main"] * (len(page.all("main")) != 1)
    found += ["no language"] * (not page.all("html")[0].attributes.get("lang"))
    return found
