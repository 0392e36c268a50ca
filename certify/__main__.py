"""``python -m certify`` and the ``certify`` command."""

from __future__ import annotations

import sys
import traceback


def main() -> None:
    """Run the command line and exit with its code; a failure of the start never exits 1, the code of a failed gate."""
    try:
        from certify.cli.app import main as run
        from certify.cli.output import flush_streams
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:  # a broken installation can raise anything
        traceback.print_exc()
        sys.exit(70)
    code = run()
    sys.exit(code if flush_streams() or code else 2)


if __name__ == "__main__":
    main()
