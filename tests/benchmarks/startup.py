"""How long commands that need no network take to start, in seconds of CPU time: `python tests/benchmarks/startup.py`.

Each command runs in a process of its own, on two cores where the system lets them be chosen; the figure is the least of
several runs, user and system time together, beside its ratio to ``python -c "import rich"``, which every view needs.
The report that is judged has 360 examples; it is written once, to a folder that is thrown away.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

RUNS = 7
CORES = 2
LIMITS = {"certify --help": 0.5, "certify gate report.json": 1.5}
GATE = '[[gate]]\nname = "l2 at 0.1"\nmetric = "certified_accuracy"\nradius = 0.1\nmin = 0.5\n'
COMMANDS = {
    'python -c "import rich"': ("-c", "import rich"),
    "certify --help": ("-m", "certify", "--help"),
    "certify gate --help": ("-m", "certify", "gate", "--help"),
    "certify gate report.json": ("-m", "certify", "gate", "report.json"),
    "certify report report.json --format markdown": ("-m", "certify", "report", "report.json", "--format", "markdown"),
    "certify verify report.json": ("-m", "certify", "verify", "report.json"),
}


def cpu_seconds(arguments: Sequence[str], folder: Path) -> float:
    """Return the CPU time of one process, its children included.

    Raises:
        RuntimeError: If the command fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "compiled"), "GITHUB_ACTIONS": ""}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{arguments}: exit code {done.returncode}: {done.stderr.decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_project(folder: Path) -> None:
    """Write the report that is judged, and its gate."""
    from certify.results import report_to_json
    from tests.report.sample_reports import lipschitz_example, lipschitz_report

    examples = [lipschitz_example(index, 1.0 if index % 20 else 0.0) for index in range(360)]
    (folder / "report.json").write_text(report_to_json(lipschitz_report(examples)))
    (folder / "certify.toml").write_text(GATE)


def measured(folder: Path) -> dict[str, float]:
    """Return the least CPU time of each command; the first run, which compiles, is not counted."""
    for arguments in COMMANDS.values():
        cpu_seconds(arguments, folder)
    return {name: min(cpu_seconds(arguments, folder) for _ in range(RUNS)) for name, arguments in COMMANDS.items()}


def main() -> int:
    """Print the table; return 1 when a limit is exceeded."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder))
        seconds = measured(Path(folder))
    unit = seconds[next(iter(COMMANDS))]
    print(f"{'command':<46} {'CPU s':>6} {'ratio':>6}  limit")
    for name, found in seconds.items():
        limit = f"{LIMITS[name]} s" if name in LIMITS else ""
        print(f"{name:<46} {found:6.3f} {found / unit:6.1f}  {limit}")
    return int(any(seconds[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
