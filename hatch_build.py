"""Compiles the kernels when the package is built: one library without Python's interface, loaded by `ctypes`.

It only makes draws faster. Without a compiler, or with one that cannot compile it, the package is pure Python.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE, LIBRARY = "certify/smoothing/kernels.c", "certify/smoothing/_kernels.so"
FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC")


class KernelBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the compiled kernels to a wheel or an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - as hatchling calls it
        """Compile the kernels; leave them out, with a warning, where that fails."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        if error := compile_kernels(root / SOURCE, root / LIBRARY):
            self.app.display_warning(f"draws will be made by numpy, several times slower: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"


def compile_kernels(source: Path, library: Path) -> str:
    """Compile a library, and put it in place once it is whole; return what went wrong, or an empty text."""
    compiler = next(filter(shutil.which, [os.environ.get("CC", "cc"), "gcc", "clang"]), None)
    if compiler is None:
        return "no C compiler was found"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    partial = library.with_suffix(f".{os.getpid()}")
    command = [compiler, *FLAGS, f'-DSOURCE="{digest}"', str(source), "-o", str(partial)]
    try:
        library.unlink(missing_ok=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
        if done.returncode != 0:
            return f"{compiler} answered {done.stderr.strip()[:300]}"
        partial.replace(library)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    finally:
        if partial.exists():
            partial.unlink()
    return ""
