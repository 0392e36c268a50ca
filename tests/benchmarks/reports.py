"""How long a report of 50,000 examples takes in every format, and how much memory: one process for each.

    python tests/benchmarks/reports.py [--examples 50000]

The report is one of Lipschitz certificates and one of smoothing certificates with ten classes, written as JSON first.
Each line is a fresh process: reading the JSON, rendering, and nothing else; peak memory is that of the process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from certify.report import FORMATS
from certify.results import report_to_json
from tests.report.sample_reports import many_lipschitz, many_smoothing

ONE = """
import resource, sys, time
from certify.report import FORMATS, read_document
start = time.perf_counter()
text = FORMATS[sys.argv[1]](read_document(sys.argv[2]))
seconds = time.perf_counter() - start
print(f"{seconds:.2f} {len(text.encode()) / 1e6:.2f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
"""


def measure(name: str, path: Path) -> tuple[float, float, float]:
    """Return seconds, megabytes of text and mebibytes of peak memory for one format."""
    done = subprocess.run([sys.executable, "-c", ONE, name, str(path)], capture_output=True, text=True, check=True)
    seconds, size, memory = map(float, done.stdout.split())
    return seconds, size, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=50_000)
    examples = parser.parse_args().examples
    print(f"{'report':<12}{'format':<10}{'seconds':>8}{'MB out':>9}{'MiB peak':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for kind, build in (("lipschitz", many_lipschitz), ("smoothing", many_smoothing)):
            path = Path(folder, f"{kind}.json")
            path.write_text(report_to_json(build(examples)), encoding="utf-8")
            for name in FORMATS:
                seconds, size, memory = measure(name, path)
                print(f"{kind:<12}{name:<10}{seconds:>8.2f}{size:>9.2f}{memory:>10.0f}")


if __name__ == "__main__":
    main()
