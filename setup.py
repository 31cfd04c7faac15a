"""Build of the C++ CPU kernel; all metadata is in pyproject.toml.

The kernel is a plain shared library behind a C interface, loaded with ctypes. It includes neither
Python's headers nor torch's, so one build serves every version of both, and the installation needs
neither of them to build. Without a working compiler the installation still succeeds, and the
package computes on its plain PyTorch path.

Environment variables:
    CXX, CPPFLAGS, CXXFLAGS, LDFLAGS    as usual
    PWKERNELS_NO_CPU_KERNEL=1           leave the kernel out on purpose
    PWKERNELS_REQUIRE_CPU_KERNEL=1      a failed build is an error instead of a warning
    PWKERNELS_VERBOSE_BUILD=1           show every command and the compiler's output
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCE_DIR = Path("pwkernels/cpu/src")
LIBRARY = Path("pwkernels/cpu/_warp.so")  # the same name everywhere: the loader knows one path
FAILURE_NOTE = LIBRARY.with_name(
    "_build_failure.txt"
)  # pip hides our output; the loader reads this
LOG = Path("build/cpu_kernel.log")

COMMON_FLAGS = (
    "-O3",
    "-g0",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-pthread",
    "-Wall",
    "-Wextra",
)
AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", *AVX2_FLAGS)
# Baseline comes first: of a template that several objects define, the linker keeps the first
# definition, and only baseline code may run on every machine.
X86_VARIANTS = {"baseline": (), "avx2": AVX2_FLAGS, "avx512": AVX512_FLAGS}
PORTABLE_VARIANTS: dict[str, tuple[str, ...]] = {"baseline": ()}


class KernelBuildError(Exception):
    """The kernel cannot be built; the message is one line that a user can act on."""


@dataclass(frozen=True)
class Unit:
    """One object file: a source, and the flags that it takes beyond COMMON_FLAGS."""

    source: Path
    object_name: str
    flags: tuple[str, ...] = ()


def target_machine() -> str:
    """Machine to compile for, as in x86_64 or arm64 (a universal2 Python builds for one)."""
    machine = sysconfig.get_platform().rpartition("-")[2]
    if machine == "universal2":
        words = os.environ.get("ARCHFLAGS", "").split()
        machine = words[1] if len(words) == 2 else platform.machine()
    return machine.lower()


def compile_units(machine: str, source_dir: Path = SOURCE_DIR) -> list[Unit]:
    """All objects of the library, in link order."""
    is_x86 = machine in ("x86_64", "amd64")
    variants = X86_VARIANTS if is_x86 else PORTABLE_VARIANTS
    units = [
        Unit(source_dir / "kernel.cpp", f"kernel_{isa}.o", (f"-DPW_ISA={isa}", *flags))
        for isa, flags in variants.items()
    ]
    for source in sorted(source_dir.glob("*.cpp")):
        if source.name != "kernel.cpp":
            has_variants = is_x86 and source.name == "dispatch.cpp"
            flags = ("-DPW_HAVE_X86_VARIANTS=1",) if has_variants else ()
            units.append(Unit(source, f"{source.stem}.o", flags))
    return units


def find_compiler() -> list[str]:
    """The C++ compiler as a command. Python's own CXX is of no interest: its ABI is not used."""
    asked = shlex.split(os.environ.get("CXX", ""))
    if asked:
        return asked
    candidates = ("c++", "g++", "clang++")
    for name in candidates:
        if shutil.which(name):
            return [name]
    raise KernelBuildError(f"no C++ compiler found, tried {', '.join(candidates)}")


def env_flags(*names: str) -> list[str]:
    """Flags that the user passes in environment variables."""
    return [flag for name in names for flag in shlex.split(os.environ.get(name, ""))]


def is_set(name: str) -> bool:
    """Whether an on/off environment variable is on."""
    return os.environ.get(name, "0") not in ("", "0")


class Tool:
    """Runs compiler and linker, and keeps what they say for the log."""

    def __init__(self) -> None:
        self.transcript: list[str] = []

    def run(self, command: list[str]) -> None:
        """Run one command; raise KernelBuildError with its first error line when it fails."""
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C"},  # "error" below is an English word
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise KernelBuildError(f"cannot run {command[0]!r}: {error.strerror}") from None
        entry = f"$ {shlex.join(command)}\n{done.stdout}"
        self.transcript.append(entry)
        if is_set("PWKERNELS_VERBOSE_BUILD"):
            print(entry, file=sys.stderr)
        if done.returncode:
            lines = done.stdout.splitlines() or [f"exit status {done.returncode}"]
            errors = [line for line in lines if "error" in line.lower()]
            raise KernelBuildError(f"{command[0]!r} failed: {(errors or lines)[0].strip()}")


class BuildKernel(build_ext):
    """Compiles each object with its own flags, which one ``Extension`` cannot express.

    Compiler and linker are run directly: setuptools' compiler objects would add the flags that
    Python was built with (LTO, architecture, rpath), and show errors as a wall of text.
    """

    def get_ext_filename(self, fullname: str) -> str:
        return str(LIBRARY)

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.build_lib) / LIBRARY
        note = Path(self.build_lib) / FAILURE_NOTE
        library.parent.mkdir(parents=True, exist_ok=True)
        tool = Tool()
        try:
            if is_set("PWKERNELS_NO_CPU_KERNEL"):
                raise KernelBuildError("left out with PWKERNELS_NO_CPU_KERNEL")
            inputs = [Path("setup.py"), *map(Path, ext.sources), *map(Path, ext.depends)]
            if self.force or not is_up_to_date(library, inputs):
                self.build_library(tool, library)
            note.unlink(missing_ok=True)
        except KernelBuildError as error:
            library.unlink(missing_ok=True)  # never ship what an earlier build left behind
            note.write_text(f"{error}\n", encoding="utf-8")
            self.report_failure(str(error), tool)

    def build_library(self, tool: Tool, library: Path) -> None:
        """Compile all objects side by side, then link them."""
        if sys.platform == "win32":
            raise KernelBuildError("Windows compilers are not supported")
        if not (SOURCE_DIR / "kernel.cpp").exists():
            raise KernelBuildError(f"{SOURCE_DIR / 'kernel.cpp'} is missing")
        compiler = find_compiler()
        machine = target_machine()
        arch = ["-arch", machine] if sys.platform == "darwin" else []
        units = compile_units(machine)
        build_temp = Path(self.build_temp) / "cpu_kernel"
        build_temp.mkdir(parents=True, exist_ok=True)
        objects = [str(build_temp / unit.object_name) for unit in units]

        def compile_unit(unit: Unit, target: str) -> None:
            flags = [*env_flags("CPPFLAGS", "CXXFLAGS"), *COMMON_FLAGS, *unit.flags, *arch]
            tool.run([*compiler, *flags, "-c", str(unit.source), "-o", target])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_unit, units, objects))
        # A symbol that no object defines must fail here and not when the library is loaded.
        strict = ["-Wl,-z,defs"] if sys.platform.startswith("linux") else []
        flags = [*env_flags("LDFLAGS"), *strict, "-shared", "-pthread", *arch]
        tool.run([*compiler, *flags, *objects, "-o", str(library)])

    def report_failure(self, reason: str, tool: Tool) -> None:
        """One line on stderr, the rest in a log file; an error where the kernel is required."""
        message = f"pwkernels: CPU kernel not built: {reason}"
        if tool.transcript:
            LOG.parent.mkdir(exist_ok=True)
            LOG.write_text("\n".join(tool.transcript), encoding="utf-8")
            message += f" (all output in {LOG})"
        if is_set("PWKERNELS_REQUIRE_CPU_KERNEL"):
            raise SystemExit(f"error: {message}")
        print(f"warning: {message}; the plain PyTorch path is used", file=sys.stderr)

    def copy_extensions_to_source(self) -> None:
        """For editable installs: mirror the library, or the note that says why there is none."""
        for path in (LIBRARY, FAILURE_NOTE):
            built = Path(self.build_lib) / path
            if built.exists():
                self.copy_file(str(built), str(path))
            else:
                path.unlink(missing_ok=True)

    def get_output_mapping(self) -> dict[str, str]:
        mapping = super().get_output_mapping()
        return {built: source for built, source in mapping.items() if os.path.exists(built)}

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if os.path.exists(path)]


class PlatformWheel(bdist_wheel):
    """The library depends on the platform, and not on the version of Python; without it there is
    nothing that depends on either.
    """

    def get_tag(self) -> tuple[str, str, str]:
        if not (Path(self.get_finalized_command("build").build_lib) / LIBRARY).exists():
            return "py3", "none", "any"
        platform_tag = super().get_tag()[2]
        return "py3", "none", platform_tag.replace("universal2", target_machine())


def is_up_to_date(target: Path, inputs: list[Path]) -> bool:
    """Whether ``target`` is newer than every input, headers included."""
    return target.exists() and all(target.stat().st_mtime > path.stat().st_mtime for path in inputs)


if __name__ == "__main__":
    kernel = Extension(
        "pwkernels.cpu._warp",
        sources=[path.as_posix() for path in sorted(SOURCE_DIR.glob("*.cpp"))],
        depends=[path.as_posix() for path in sorted(SOURCE_DIR.glob("*.h*"))],
        language="c++",
    )
    setup(
        ext_modules=[kernel],
        cmdclass={"build_ext": BuildKernel, "bdist_wheel": PlatformWheel},
    )
