"""``pytest --certify``: the gates of the configuration as tests, one item each.

Without the flag nothing of certify is loaded but this file, and nothing changes. With it, the configuration is searched
upward from pytest's root folder (or named by ``--certify-config``), and the items stand after all other tests, under
the file of the configuration. The first one that runs answers them all, as ``certify gate`` does: from the store where
it holds the answer, from a run otherwise, from reports alone with ``--certify-report``. A failed gate is a failed test,
and so is an undecided one, whose name says so: nothing was shown.

With pytest-xdist the items are given to one worker where ``--dist loadgroup`` is used; with any other distribution a
lock lets one worker run and the others find its answer in the store.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest._code.code import ExceptionInfo, TerminalRepr

    from certify.cli.configuration import Configuration
    from certify.errors import CertifyError
    from certify.results import GateRow

ANSWER: pytest.StashKey[Mapping[str, GateRow] | CertifyError] = pytest.StashKey()


class GateNotPassed(Exception):  # noqa: N818 - a verdict, not an error of the program
    """A gate that failed, or that is undecided."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flags of this plugin."""
    group = parser.getgroup("certify", "gates on the robustness of networks")
    group.addoption("--certify", action="store_true", help="Also judge the gates of certify.toml, one test each.")
    group.addoption("--certify-config", metavar="FILE", help="The configuration; default: searched upward.")
    group.addoption(
        "--certify-report",
        metavar="REPORT",
        action="append",
        default=[],
        help="Judge this report and run nothing; one of each kind that the gates need.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Say what the mark on the items means, where pytest-xdist does not."""
    if config.getoption("--certify"):
        config.addinivalue_line("markers", "xdist_group(name): tests that one worker of pytest-xdist runs")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one item for each gate, before ``-k`` and ``-m`` choose among them.

    Raises:
        pytest.UsageError: If there is no configuration with gates, or it cannot be read.
    """
    if config.getoption("--certify"):
        gates = GateFile.from_parent(session, path=_configuration(config).path)
        items.extend(session.genitems(gates))  # which also counts and announces them


def _configuration(config: pytest.Config) -> Configuration:
    """Return the configuration that is named, else the nearest one upward from the root folder; it has gates."""
    from certify.cli.configuration import find_configuration
    from certify.errors import CertifyError

    named: str | None = config.getoption("--certify-config")
    try:
        found = find_configuration(None if named is None else config.invocation_params.dir / named, config.rootpath)
    except CertifyError as error:
        raise pytest.UsageError(f"--certify: {error}") from error
    if found.path is None or not found.gates:
        where = found.path or f"{config.rootpath} and above: no certify.toml"
        raise pytest.UsageError(f"--certify: {where}: expected at least one [[gate]], got none")
    return found


class GateFile(pytest.File):
    """The configuration, as the file that holds the items."""

    def collect(self) -> Iterator[GateItem]:
        """Yield one item for each gate."""
        from certify.report import strip_controls

        for gate in _configuration(self.config).gates:
            yield GateItem.from_parent(self, name=strip_controls(gate.name)[:200] or "gate", gate=gate.name)


class GateItem(pytest.Item):
    """One gate, as a test."""

    def __init__(self, *, gate: str, **others: object) -> None:
        super().__init__(**others)  # type: ignore[arg-type]  # what pytest hands on
        self._gate = gate
        self.add_marker(pytest.mark.xdist_group("certify"))

    def runtest(self) -> None:
        """Judge all gates, unless that was done, and raise when this one did not pass.

        Raises:
            GateNotPassed: If it failed or is undecided.
        """
        row = _rows(self.config)[self._gate]
        if row.verdict != "passed":
            raise GateNotPassed(f"{row.verdict}: {row.reason}")

    def repr_failure(
        self,
        excinfo: ExceptionInfo[BaseException],
        style: object = None,  # noqa: ARG002 - pytest's interface
    ) -> str | TerminalRepr:
        """Return the verdict and its reason; of errors in the input the message, of a bug the traceback."""
        from certify.errors import CertifyError
        from certify.report import strip_controls

        if isinstance(excinfo.value, GateNotPassed | CertifyError):
            return strip_controls(f"{self._gate}: {excinfo.value}")
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return where the gate stands and what it is called."""
        return self.path, None, f"gate {self.name}"


def _rows(config: pytest.Config) -> Mapping[str, GateRow]:
    """Return the verdicts of all gates by their names, judged once; what kept them from being judged is raised again.

    Raises:
        CertifyError: If model, data or reports cannot be read, or fit no gate.
    """
    from certify.errors import CertifyError

    if ANSWER not in config.stash:
        try:
            config.stash[ANSWER] = _judged(config)
        except CertifyError as error:
            config.stash[ANSWER] = error
    answer = config.stash[ANSWER]
    if isinstance(answer, CertifyError):
        raise answer
    return answer


def _judged(config: pytest.Config) -> Mapping[str, GateRow]:
    from certify.cli.judging import Question, decide
    from certify.cli.output import Output

    reports = [config.invocation_params.dir / name for name in config.getoption("--certify-report")]
    with _alone(config):
        judged = decide(Question(_configuration(config), reports), Output(quiet=True), no_progress=True)
    return {row.name: row for report in judged for row in report.gates}


@contextlib.contextmanager
def _alone(config: pytest.Config) -> Iterator[None]:
    """Hold off the other workers of pytest-xdist, which would run the same; where there are no locks, hold off none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    cache = getattr(config, "cache", None)  # not there where pytest's cache is switched off
    if cache is None or not hasattr(config, "workerinput"):
        yield
        return
    with (cache.mkdir("certify") / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
