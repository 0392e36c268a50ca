"""The application: its commands, its exit codes, and the one place where errors become messages.

=====  ===============================================================================================
0      done, and every gate passed (or none was asked)
1      a gate failed; nothing else exits 1, a crash least of all
2      usage, configuration or input error
3      an operation without a sound rule for what was asked, or an unknown architecture
4      a gate is undecided
70     internal error (traceback on stderr), or a certificate was broken
130    interrupted; what is done is kept
=====  ===============================================================================================
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from certify._version import __version__
from certify.cli import compare, gate, inspect, lipschitz, merge, report, smooth
from certify.cli.output import write_note, write_text
from certify.errors import BrokenCertificate, CertifyError
from certify.files import write_file_atomically
from certify.results import dump_json

EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EVIDENCE = "certify-broken-certificate.json"
INTERRUPTED = "certify: interrupted; what a smoothing run had finished is kept, run the same command again to go on"

app = typer.Typer(
    name="certify",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Certify the robustness of trained neural networks: proved Lipschitz bounds, randomized smoothing, CI gates.",
)


def _show_version(asked: bool) -> None:
    if asked:
        write_text(f"certify {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("inspect")(inspect.inspect_command)
app.command("export")(inspect.export_command)
app.command("lipschitz")(lipschitz.command)
app.command("smooth")(smooth.command)
app.command("gate")(gate.command)
app.command("compare")(compare.command)
app.command("report")(report.report_command)
app.command("merge")(merge.command)
app.command("verify")(report.verify_command)
app.command("schema")(report.schema_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every outcome is mapped here.

    Args:
        arguments: Without the program's name; default: those of the process.
    """
    try:
        code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            write_note(INTERRUPTED)
        return code if isinstance(code, int) else 0
    except typer.Exit as ended:
        return ended.exit_code
    except typer.TyperException as error:
        return _usage(error)
    except BrokenCertificate as error:
        write_note(f"certify: {error}")
        _save_evidence(error)
        return error.exit_code
    except CertifyError as error:
        write_note(f"certify: {error}")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        write_note(INTERRUPTED)
        return EXIT_INTERRUPTED
    except SystemExit:
        # What typer and rich make of a reader of stdout that has gone (`| head`): with 1, the code of a failed gate.
        return EXIT_INTERRUPTED
    except OSError as error:
        write_note(f"certify: {error!s:.500}; check the path, its permissions and the free space")
        return EXIT_USAGE
    except Exception:
        for line in traceback.format_exc().splitlines():
            write_note(line)
        write_note("certify: internal error, a bug of certify; no result of this run can be trusted")
        return EXIT_INTERNAL


def _save_evidence(error: BrokenCertificate) -> None:
    """Write both inputs and the settings beside the caller, where a bug report can take them from."""
    try:
        write_file_atomically(EVIDENCE, dump_json(error.evidence, indent=1).encode())
    except (OSError, CertifyError) as failed:
        write_note(f"certify: the evidence could not be written to {EVIDENCE}: {failed!s:.300}")
    else:
        write_note(
            f"certify: both inputs and the settings are in {EVIDENCE}; this is a bug of certify, please report it"
        )


def _usage(error: typer.TyperException) -> int:
    show = getattr(error, "show", None)
    if show is None:
        write_note(f"certify: {error}")
    else:
        with contextlib.suppress(OSError):  # as in `write_note`
            show()
    return int(getattr(error, "exit_code", EXIT_USAGE))
