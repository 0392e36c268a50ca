"""``python -m certify`` and the ``certify`` command: the start and the end of the process.

An interrupt or a termination is a word on stderr and exit code 130 from the first line of `main` on. What Python does
before that, about the first hundredth of a second, is out of its hands: a Ctrl-C then shows Python's own traceback.
"""

import sys


def main() -> None:
    """Run the command line and exit with its code; a failure of the start never exits 1, the code of a failed gate."""
    try:
        code = _run()
    except KeyboardInterrupt:  # while the application was loading, or had already answered
        _say("certify: interrupted")
        code = 130
    except Exception:  # a broken installation can raise anything
        import traceback

        _say(traceback.format_exc())
        code = 70
    if code == 130:
        import os

        os._exit(code)  # waits for no thread; after some interrupts Python would end by SIGINT instead of a code
    sys.exit(code)


def _say(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, AttributeError):  # a stderr that is full, closed, or None: the exit code says what happened
        return


def _run() -> int:
    import signal

    signal.signal(signal.SIGTERM, _interrupt)
    from certify.cli.app import main as run
    from certify.cli.output import flush_streams

    code = run()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # the result is out: what ends the process now need not say so
    return code if flush_streams() or code else 2


def _interrupt(number: int, frame: object) -> None:  # noqa: ARG001 - the interface of a handler
    """End as by Ctrl-C, which is caught in every place; the next termination ends the process at once."""
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
