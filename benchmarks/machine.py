"""The machine on which a result was measured. Results are compared only between machines whose `likeness` is equal.

No host name, user or path is recorded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "numba", "tenseal", "cryptography", "torch", "flwr", "opacus")
LIKENESS = ("processor", "cores", "threads", "system", "architecture", "device", "python")


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """Processor, cores, memory, device and versions. threads: what every case was allowed to use."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.system(),
        "architecture": platform.machine(),
        "device": _device(device),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "versions": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "source": _source_digest(),
        "revision": _revision(),
    }


def likeness(machine: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for two results to be comparable."""
    return {name: machine.get(name) for name in LIKENESS}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _device(name: str) -> str:
    if name != "cuda":
        return name
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cuda: no device"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _source_digest() -> str:
    """SHA-256 over the measured package's own files: which code this was, committed or not."""
    spec = importlib.util.find_spec("secagg")
    assert spec is not None and spec.origin is not None
    digest = hashlib.sha256()
    for path in sorted(Path(spec.origin).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _revision() -> str:
    """The git revision of the code, "unknown" outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"
