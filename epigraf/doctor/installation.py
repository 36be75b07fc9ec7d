"""The installation: versions, the native core, CUDA, optional packages.

torch and our own modules are imported inside of the checks, so that a broken one is a finding.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import epigraf
from epigraf.doctor.checkup import Section, one_line
from epigraf.optional import import_optional

_SECONDS = 10  # that a compiler may take to say its version
OPTIONAL = {
    "nerfacc": ((), "pip install nerfacc"),
    "tinycudann": (
        ("Network",),
        "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch",
    ),
    "kaolin": (
        ("ops",),
        "pip install kaolin==0.18.0 -f <NVIDIA's page of wheels for your torch and CUDA> (the "
        "kaolin on PyPI is a placeholder)",
    ),
}
"""Optional packages: attributes that the real one has, and the command that installs it."""


def versions() -> Section:
    """Python, this package and everything that it requires."""
    section = Section("versions")
    section.facts["epigraf"] = f"{epigraf.__version__} in {Path(epigraf.__file__).parent}"
    section.facts["python"] = f"{platform.python_version()} on {platform.platform(terse=True)}"
    for name, needed in _requirements():
        try:
            section.facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            section.facts[name] = "missing"
            section.advice.append(f"{name} is missing: pip install '{name}{needed}'")
    return section


def _requirements() -> list[tuple[str, str]]:
    """Names and version bounds of what the package needs always, in the order of its metadata."""
    try:
        lines = importlib.metadata.requires("epigraf") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    found = []
    for line in lines:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*([^;]*)(;.*extra.*)?", line)
        if match and not match[3]:
            found.append((match[1], match[2].strip()))
    return found or [("torch", "")]


def torch_build() -> Section:
    """torch: its version, what it was built for, its threads."""
    section = Section("torch")
    try:
        import torch
    except Exception as error:
        section.facts["import"] = one_line(error)
        section.advice.append("torch does not import: pip install --force-reinstall torch")
        return section
    section.facts["version"] = torch.__version__
    section.facts["built for"] = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    section.facts["threads"] = str(torch.get_num_threads())
    return section


def native_core() -> Section:
    """The native core: whether it was found, its SIMD level, OpenMP, CUDA architectures."""
    from epigraf.ops import _native

    section = Section("native core")
    if not _native.available():
        reason = _native.reason()
        section.facts["found"] = f"no: {reason}"
        section.facts["others beside it"] = _cores_beside() or "none"
        section.advice.append(
            f"ops run in plain torch, many times slower ({reason}): install a C++ compiler and run "
            f"`{Path(sys.executable).name} -m pip install --force-reinstall --no-deps .` again"
        )
        return section
    core = _native.core()
    section.facts["found"] = str(core.__file__)
    section.facts["backend"] = _native.backend_line()
    section.facts["SIMD"] = core.cpu_instruction_set()
    section.facts["OpenMP"] = "yes" if core.cpu_has_openmp() else "no"
    section.facts["CUDA architectures"] = core.CUDA_ARCHS or "none compiled"
    if not core.cpu_has_openmp():
        section.advice.append("the core has no OpenMP and uses one thread: build it with g++")
    return section


def _cores_beside() -> str:
    """Cores that were built for another Python."""
    return ", ".join(path.name for path in Path(epigraf.__file__).parent.glob("_C*.so"))


def cuda() -> Section:
    """CUDA devices against the compiled architectures, and the compiler."""
    section = Section("CUDA")
    section.facts["nvcc"], nvcc = _nvcc()
    import torch

    from epigraf.ops import _native

    core = _native.core() if _native.available() else None
    compiled = bool(core and core.cuda_compiled())
    if not torch.cuda.is_available():
        section.facts["devices"] = "none" if torch.version.cuda else "none (torch is a CPU build)"
        return section
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
        section.facts[f"device {index}"] = (
            f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}, "
            f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        )
        if core is not None and compiled and not runs_on(core.CUDA_ARCHS, major * 10 + minor):
            section.advice.append(
                f"the core has no code for sm_{major}{minor} (device {index}): "
                f"EPIGRAF_CUDA_ARCHS={major}{minor} pip install --force-reinstall --no-deps ."
            )
    if not compiled:
        where = "" if nvcc else ", with nvcc on the PATH"
        section.advice.append(
            "the core was built without CUDA, so ops on the GPU run in plain torch: "
            f"EPIGRAF_CUDA=on pip install --force-reinstall --no-deps .{where}"
        )
    return section


def runs_on(archs: str, device: int) -> bool:
    """Whether code compiled for `archs` ("75-real 90") runs on sm_`device` (86).

    Machine code runs on later minor versions of its major one; the last entry also has PTX, which
    any later device compiles when the program starts.
    """
    numbers = [int(text.split("-")[0]) for text in archs.split()]
    same = any(n // 10 == device // 10 and n <= device for n in numbers)
    return same or (bool(numbers) and numbers[-1] <= device)


def _nvcc() -> tuple[str, bool]:
    """What nvcc on the PATH says, and whether it works."""
    path = shutil.which("nvcc")
    if path is None:
        return "not on the PATH", False
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
        return f"{path} does not run ({type(error).__name__})", False
    match = re.search(r"release ([\d.]+)", done.stdout)
    if done.returncode or match is None:
        return f"{path} is not a working nvcc (exit code {done.returncode})", False
    return f"{match[1]} in {path}", True


def optional_packages() -> Section:
    """nerfacc, tiny-cuda-nn, Kaolin: there, or exactly why not and what turns them on."""
    section = Section("optional parts")
    for name, (needed, command) in OPTIONAL.items():
        found = import_optional(name, needed)
        if found.module is None:
            section.facts[name] = f"off: {found.reason}; {command}"
        else:
            section.facts[name] = f"on, {getattr(found.module, '__version__', 'no version')}"
    from epigraf.ops.nerfacc import why_no_traversal

    if reason := why_no_traversal():
        section.facts["nerfacc traversal"] = f"off: {reason}; ours runs instead"
    return section
