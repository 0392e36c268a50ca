"""Reports as one HTML file that opens without a network: no request leaves it, and no text in it can become code.

The page carries a content policy that allows nothing but its own style, its own script, both by their hash, and images
inside the file. Templates escape every text; controls and marks that reorder text are removed before. Without script
the page is whole, and tables keep their order.
"""

from __future__ import annotations

from certify.report.html_view.page import NamedReport, render_html, render_html_page

__all__ = ["NamedReport", "render_html", "render_html_page"]
