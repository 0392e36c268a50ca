"""The application: its exit codes, and the one place where errors become messages.

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
import sys
import traceback
from collections.abc import Sequence

import typer

from certify.cli.commands import build_app
from certify.cli.output import write_note
from certify.errors import BrokenCertificate, CertifyError

EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EVIDENCE = "certify-broken-certificate.json"
INTERRUPTED = "certify: interrupted; what a smoothing run had finished is kept, run the same command again to go on"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every outcome is mapped here.

    Args:
        arguments: Without the program's name; default: those of the process.
    """
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        asked = next((argument for argument in given if not argument.startswith("-")), "")
        code = build_app(asked)(args=given, standalone_mode=False)
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
        from certify.report.neutralise import plain_line

        for line in traceback.format_exc().splitlines():
            write_note(plain_line(line))
        write_note("certify: internal error, a bug of certify; no result of this run can be trusted")
        return EXIT_INTERNAL


def _save_evidence(error: BrokenCertificate) -> None:
    """Write both inputs and the settings beside the caller, where a bug report can take them from."""
    from certify.files import write_file_atomically
    from certify.results import dump_json

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
