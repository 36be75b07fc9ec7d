"""Builds the native core with CMake; everything else is in pyproject.toml.

Environment: EPIGRAF_NATIVE=auto|on|off (auto: without a C++ compiler the package installs with its
pure-torch reference; on: that is an error; off: do not build), EPIGRAF_CUDA=auto|on|off,
EPIGRAF_CUDA_ARCHS="80;90", MAX_JOBS, and CMake's own CXX, CUDACXX, CMAKE_ARGS.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class NativeNotBuilt(Exception):
    """Why there is no native core."""


def choice(name: str) -> str:
    """The environment variable `name`, one of auto, on and off."""
    value = os.environ.get(name, "auto").lower()
    if value not in ("auto", "on", "off"):
        raise SystemExit(f"epigraf: {name} must be auto, on or off, got {value!r}")
    return value


def tool(name: str) -> str:
    """The path of `name`: from pip's build environment, else from PATH."""
    beside_python = shutil.which(name, path=str(Path(sys.executable).parent))
    found = shutil.which(name) or beside_python
    if not found:
        raise NativeNotBuilt(f"no {name} found")
    return found


def configure_arguments(build: Path, module_dir: Path) -> list[str]:
    """The command that configures the CMake build in `build`."""
    import pybind11

    arguments = [
        tool("cmake"),
        "-S",
        str(ROOT),
        "-B",
        str(build),
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DEPIGRAF_MODULE_DIR={module_dir}",
        f"-DEPIGRAF_CUDA={choice('EPIGRAF_CUDA')}",
        f"-DEPIGRAF_CUDA_ARCHS={os.environ.get('EPIGRAF_CUDA_ARCHS', '')}",
        "-DCMAKE_BUILD_TYPE=Release",
    ]
    if shutil.which("ninja"):
        arguments += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    return arguments + shlex.split(os.environ.get("CMAKE_ARGS", ""))


def run(arguments: list[str]) -> None:
    """Runs a command; a failure of the compiler ends the installation with what to do."""
    if subprocess.run(arguments).returncode:
        raise SystemExit(
            "epigraf: the native core did not compile (see above). "
            "EPIGRAF_CUDA=off leaves out CUDA, EPIGRAF_NATIVE=off installs the pure-torch path."
        )


def compile_native(build: Path, target: Path) -> None:
    """Configures from scratch (an earlier pip's cache names tools that are gone) and builds."""
    if choice("EPIGRAF_NATIVE") == "off":
        raise NativeNotBuilt("EPIGRAF_NATIVE=off")
    build.mkdir(parents=True, exist_ok=True)
    (build / "CMakeCache.txt").unlink(missing_ok=True)
    shutil.rmtree(build / "CMakeFiles", ignore_errors=True)
    target.unlink(missing_ok=True)
    run(configure_arguments(build, target.parent))
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
    run([tool("cmake"), "--build", str(build), "--config", "Release", "--parallel", jobs])
    if not target.exists():
        raise NativeNotBuilt("no working C++ compiler found")


class BuildNative(build_ext):
    """build_ext by CMake, which may leave the package without its native core."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            compile_native(Path(self.build_temp).resolve() / "native", target)
        except NativeNotBuilt as reason:
            if choice("EPIGRAF_NATIVE") == "on":
                raise SystemExit(f"epigraf: EPIGRAF_NATIVE=on, but {reason}") from reason
            ext.optional = True  # so that setuptools accepts that the file is missing
            print(
                f"epigraf: native core not built ({reason}); ops will run in pure torch", flush=True
            )


setup(
    # The presets live at the top of the tree and are installed beside the code that reads them.
    packages=[*find_packages(include=["epigraf", "epigraf.*"]), "epigraf.configs"],
    package_dir={"epigraf.configs": "configs"},
    ext_modules=[Extension("epigraf._C", sources=[])],
    cmdclass={"build_ext": BuildNative},
)
