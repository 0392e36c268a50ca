"""Views of a report: every format, the summary, and verification, from its JSON alone."""
