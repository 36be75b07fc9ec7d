"""The machine: processors, memory, disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from epigraf.doctor.checkup import Section

_LEAST_DISK, _LEAST_MEMORY = 2 * 2**30, 2 * 2**30  # bytes
_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd")


def processors() -> Section:
    """Cores, those this process may use, and the vector instructions they have."""
    section = Section("processors")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    section.facts["model"] = _cpuinfo("model name") or "unknown"
    section.facts["cores"] = f"{os.cpu_count()}, {usable} of them for this process"
    flags = set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())
    section.facts["instructions"] = " ".join(f for f in _FLAGS if f in flags) or "unknown"
    load = os.getloadavg()[0]
    section.facts["load"] = f"{load:.1f}"
    if usable and load > 1.5 * usable:
        section.advice.append(f"the machine is busy (load {load:.1f} on {usable} cores)")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        if name in os.environ:
            section.facts[name] = os.environ[name]
    return section


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text(errors="replace").splitlines():
        if line.split(":")[0].strip() == key:
            return line.split(":", 1)[1].strip()
    return ""


def memory() -> Section:
    """RAM in all and free."""
    section = Section("memory")
    path = Path("/proc/meminfo")
    if not path.exists():
        section.facts["RAM"] = "unknown"
        return section
    sizes = {x.split(":")[0]: x.split(":")[1] for x in path.read_text().splitlines() if ":" in x}
    total, free = (int(sizes[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    section.facts["RAM"] = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB available"
    if free < _LEAST_MEMORY:
        section.advice.append(
            f"{free / 2**30:.1f} GiB of memory are available: set training.batch_gpu, or close "
            "other programs"
        )
    return section


def disk() -> Section:
    """Free space where runs and temporary files go."""
    section = Section("disk")
    for name, folder in (("here", Path.cwd()), ("temporary", Path(tempfile.gettempdir()))):
        usage = shutil.disk_usage(folder)
        section.facts[name] = (
            f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free in {folder}"
        )
        if usage.free < _LEAST_DISK:
            section.advice.append(f"{folder} has {usage.free / 2**30:.1f} GiB left: free some")
        if not os.access(folder, os.W_OK):
            section.advice.append(f"{folder} cannot be written to: runs need --out elsewhere")
    return section
