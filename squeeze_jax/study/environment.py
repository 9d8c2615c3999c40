"""What a result depends on besides its config: command, commit, versions, device."""

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from squeeze_jax.cpu_affinity import usable_cores

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)

COMMIT_VARIABLE = "SQUEEZE_JAX_COMMIT"


def environment(command: str) -> dict[str, Any]:
    """Returns the command, commit, versions, device and start time of a run, for its records."""
    device = jax.devices()[0]
    return {
        "command": command,
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform}), "
        f"{jax.process_count()} process(es), "
        f"{usable_cores()} of {os.cpu_count()} cores ({_processor()})",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    """Returns "AMD EPYC, x86_64"; the architecture alone where the system says no more."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        cpuinfo = ""
    names = re.findall(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    return ", ".join([*names[:1], platform.machine()])


def commit() -> str:
    """Returns the commit of the code that runs, "unknown" where nothing tells it.

    $SQUEEZE_JAX_COMMIT tells it of a copy without its history: in a container, on another machine.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", "-C", str(Path(__file__).parent), *arguments),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    if known := os.environ.get(COMMIT_VARIABLE):
        return known
    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
