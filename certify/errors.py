"""The errors of the tool: raised where the cause is found, caught once, in the command line.

A message says what was expected, what came, and what to do. Each class carries the exit code its outcome has on
the command line, so that no other file needs a table of them. Bad arguments of a pure maths function are a
``ValueError`` instead; results that are merely undecided or unbounded are values (`certify.results`), not errors.
"""

from __future__ import annotations

from collections.abc import Mapping


class CertifyError(Exception):
    """Any failure the user can act on: input, usage, configuration (exit code 2)."""

    exit_code = 2


class InputError(CertifyError):
    """A file, array, flag or configuration is not what it must be; the message names it."""


class NoRuleError(CertifyError):
    """The model has an operation outside the vocabulary or without a sound rule, or its architecture is unknown."""

    exit_code = 3


class InterruptedRun(CertifyError):  # noqa: N818 - an outcome, not a fault
    """The run was interrupted; what is done is kept, and the message says how to go on."""

    exit_code = 130


class SoundnessError(Exception):
    """An invariant of a certificate is broken: a bug of this tool, never the user's (exit code 70)."""

    exit_code = 70


class BrokenCertificate(SoundnessError):  # noqa: N818 - what was found, not what went wrong
    """The falsifier broke a certificate of its own run: the report is withheld (exit code 70).

    ``evidence`` holds both inputs in full, and all that is needed to see it again, as plain JSON: save it whole.
    """

    def __init__(self, message: str, evidence: Mapping[str, object]) -> None:
        super().__init__(message)
        self.evidence = dict(evidence)
