"""The build of the C++ CPU kernel: other machines, no compiler, broken sources, wheels."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "pwkernels" / "cpu" / "src"
LIBRARY = Path("pwkernels/cpu/_warp.so")
FAILURE_NOTE = Path("pwkernels/cpu/_build_failure.txt")

SHT_SYMTAB, SHT_DYNAMIC, DT_NEEDED = 2, 6, 1

# Runs in a process of its own, on an unpacked wheel. With the identity weight and zero offsets the
# warp gives its input back.
USE_WHEEL = """
import sys, torch, pwkernels, pwkernels.cpu
assert pwkernels.__file__.startswith(sys.argv[1]), pwkernels.__file__
maps = torch.arange(2 * 3 * 5 * 7, dtype=torch.float32).reshape(2, 3, 5, 7)
offsets = [torch.zeros(2, 2 * 3 * 9, 5, 7) for _ in range(2)]
weight = torch.zeros(2, 3, 3, 3, 3)
weight[:, range(3), range(3), 1, 1] = 1
warped = pwkernels.multi_dilation_deform_warp(maps, offsets, weight, dilations=(1, 2))
torch.testing.assert_close(warped, maps)
print(pwkernels.cpu.why_unavailable())
"""


def load_setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("project_setup", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


setup_script = load_setup()


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would steer the build or the import."""
    steering = re.compile(
        r"PWKERNELS_|TRITON_|PYTHONPATH$|CC$|CXX$|ARCHFLAGS$|(C|CXX|CPP|LD)FLAGS$"
    )
    kept = {name: value for name, value in os.environ.items() if not steering.match(name)}
    return kept | changes


def copy_project(target: Path) -> Path:
    """The tree that a user builds from, without anything built."""
    target.mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    built = shutil.ignore_patterns("*.so", "__pycache__", FAILURE_NOTE.name)
    for name in ("pwkernels", "posewarper"):
        shutil.copytree(ROOT / name, target / name, ignore=built)
    return target


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project")


def build_inplace(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=project,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
    )


def build_wheel(folder: Path, **environment: str) -> tuple[str, Path]:
    """Name of the wheel that pip builds, and the folder that it is unpacked in."""
    project = copy_project(folder / "project")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation"]
    result = subprocess.run(
        [*command, "--wheel-dir", str(folder)],
        cwd=project,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob("*.whl")
    unpacked = folder / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return wheel.name, unpacked


def use_wheel(unpacked: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", USE_WHEEL, str(unpacked)],
        cwd=unpacked.parent,
        env=clean_environment(PYTHONPATH=str(unpacked)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


class Elf:
    """As much of a 64-bit little-endian ELF file as the tests ask about."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        assert self.data[:6] == b"\x7fELF\x02\x01", f"{path} is no 64-bit little-endian ELF file"
        (start,) = struct.unpack_from("<Q", self.data, 0x28)
        size, count = struct.unpack_from("<HH", self.data, 0x3A)
        self.sections = [
            struct.unpack_from("<IIQQQQIIQQ", self.data, start + i * size) for i in range(count)
        ]

    def entries(self, section_type: int, layout: str) -> list[tuple[int, tuple[int, ...]]]:
        """Offset of the string table, and fields, of each entry of the sections of a type."""
        return [
            (self.sections[link][4], fields)
            for _, kind, _, _, offset, size, link, *_ in self.sections
            if kind == section_type
            for fields in struct.iter_unpack(layout, self.data[offset : offset + size])
        ]

    def string(self, offset: int) -> str:
        return self.data[offset : self.data.index(b"\0", offset)].decode()

    def needed(self) -> set[str]:
        """Names of the shared libraries that the file links."""
        dynamic = self.entries(SHT_DYNAMIC, "<qQ")
        return {
            self.string(strings + value) for strings, (tag, value) in dynamic if tag == DT_NEEDED
        }

    def symbols(self) -> tuple[set[str], set[str]]:
        """Names that the file defines, and names that it only refers to."""
        defined: set[str] = set()
        undefined: set[str] = set()
        for strings, (name, _, _, section, _, _) in self.entries(SHT_SYMTAB, "<IBBHQQ"):
            (defined if section else undefined).add(self.string(strings + name))
        return defined, undefined


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return build_wheel(tmp_path_factory.mktemp("wheel"), PWKERNELS_REQUIRE_CPU_KERNEL="1")


@pytest.mark.parametrize(
    ("target", "machine"),
    [
        ("aarch64-linux-gnu.2.28", "aarch64"),
        ("aarch64-macos", "arm64"),
        ("x86_64-linux-gnu.2.28", "x86_64"),
    ],
)
def test_clang_compiles_without_warnings(
    target: str, machine: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert importlib.util.find_spec("ziglang"), (
        "ziglang, of the development extra, is not installed"
    )
    cache = str(tmp_path_factory.getbasetemp() / "zig")
    environment = clean_environment(ZIG_GLOBAL_CACHE_DIR=cache, ZIG_LOCAL_CACHE_DIR=cache)
    compiler = [sys.executable, "-m", "ziglang", "c++", "-target", target]
    objects = []
    for unit in setup_script.compile_units(machine, SOURCES):
        objects.append(tmp_path / unit.object_name)
        flags = [*setup_script.COMMON_FLAGS, *unit.flags, "-Werror"]
        result = subprocess.run(
            [*compiler, *flags, "-c", str(unit.source), "-o", str(objects[-1])],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, f"{unit.object_name}:\n{result.stderr}"

    # Linking would build the target's C++ library first, for a minute. What it would find wrong is
    # a symbol of ours that no object defines, such as a variant that this machine does not have.
    if "linux" in target:
        symbols = [Elf(path).symbols() for path in objects]
        defined = set().union(*(names for names, _ in symbols))
        undefined = set().union(*(names for _, names in symbols)) - defined
        assert defined
        assert not {name for name in undefined if re.search(r"pw_|2pw", name)}


def test_other_machines_get_the_baseline_only() -> None:
    for unit in setup_script.compile_units("aarch64", SOURCES):
        assert not [flag for flag in unit.flags if flag.startswith("-m") or "X86" in flag]
    isas = [unit.object_name for unit in setup_script.compile_units("x86_64", SOURCES)]
    assert isas[:3] == ["kernel_baseline.o", "kernel_avx2.o", "kernel_avx512.o"]


@pytest.mark.parametrize("environment", [{"PATH": ""}, {"CXX": "/nonexistent"}], ids=repr)
def test_without_a_compiler_the_build_warns_in_one_line(
    project: Path, environment: dict[str, str]
) -> None:
    (project / LIBRARY).write_bytes(b"left from an earlier build")
    result = build_inplace(project, **environment)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"warning: pwkernels: CPU kernel not built: .+\n", result.stderr)
    assert not (project / LIBRARY).exists()
    reason = (project / FAILURE_NOTE).read_text(encoding="utf-8")
    assert reason.strip() in result.stderr


def test_compiler_errors_go_to_a_log(project: Path) -> None:
    kernel = project / "pwkernels/cpu/src/kernel.cpp"
    kernel.write_text("#error first line\n#error second line\n")
    result = build_inplace(project)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"warning: .*first line.*build/cpu_kernel\.log.*\n", result.stderr)
    assert "second line" in (project / "build/cpu_kernel.log").read_text(encoding="utf-8")
    assert "first line" in (project / FAILURE_NOTE).read_text(encoding="utf-8")


def test_a_required_kernel_fails_the_build(project: Path) -> None:
    result = build_inplace(project, CXX="/nonexistent", PWKERNELS_REQUIRE_CPU_KERNEL="1")
    assert result.returncode != 0
    assert "error: pwkernels: CPU kernel not built" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_kernel_can_be_left_out(project: Path) -> None:
    result = build_inplace(project, PWKERNELS_NO_CPU_KERNEL="1")
    assert result.returncode == 0, result.stderr
    assert not (project / LIBRARY).exists()
    assert "PWKERNELS_NO_CPU_KERNEL" in (project / FAILURE_NOTE).read_text(encoding="utf-8")


def test_a_change_of_a_header_rebuilds(tmp_path: Path) -> None:
    library, header = tmp_path / "library.so", tmp_path / "header.h"
    header.touch()
    assert not setup_script.is_up_to_date(library, [header])
    library.touch()
    os.utime(header, (1, 1))
    assert setup_script.is_up_to_date(library, [header])
    os.utime(header, (2**33, 2**33))
    assert not setup_script.is_up_to_date(library, [header])


def test_a_wheel_serves_every_python(wheel: tuple[str, Path]) -> None:
    name, unpacked = wheel
    assert re.fullmatch(r"posewarper-[\d.]+-py3-none-(?!any).+\.whl", name)
    assert (unpacked / LIBRARY).exists()
    assert not (unpacked / FAILURE_NOTE).exists()
    assert (unpacked / "pwkernels/py.typed").exists()
    assert not list(unpacked.rglob("*.cpp"))
    assert {path.name.split("-")[0] for path in unpacked.iterdir()} == {"pwkernels", "posewarper"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files")
def test_the_library_needs_neither_python_nor_torch(wheel: tuple[str, Path]) -> None:
    _, unpacked = wheel
    system = r"lib(stdc\+\+|c\+\+|c\+\+abi|gcc_s|c|m|pthread|dl|rt)\.so\.\d+|ld-linux.*"
    needed = Elf(unpacked / LIBRARY).needed()
    assert needed
    assert not {name for name in needed if not re.fullmatch(system, name)}


def test_a_wheel_loads_its_kernel(wheel: tuple[str, Path]) -> None:
    assert use_wheel(wheel[1]) == "None"


def test_a_wheel_without_the_kernel_works_and_says_why(tmp_path: Path) -> None:
    name, unpacked = build_wheel(tmp_path, CXX="/nonexistent")
    assert re.fullmatch(r"posewarper-[\d.]+-py3-none-any\.whl", name)
    assert not (unpacked / LIBRARY).exists()
    reason = use_wheel(unpacked)
    assert "/nonexistent" in reason
    assert "\n" not in reason
