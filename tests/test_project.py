"""The rules of the repository: import directions, README commands, no machine in any file."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import posewarper

ROOT = Path(__file__).parent.parent
PACKAGES = ("pwkernels", "posewarper")
MAX_LINES = 500

# Directories that exist on somebody's machine. Put together from parts, so that this file passes.
MACHINE_PATH = re.compile(r"(?<![\w.~}-])/(?:work|root|home|tmp|mnt|opt|Users)" + r"/\w")
# The package index that a machine happens to use; README's commands work with any.
REGISTRY = re.compile(
    r"(?:https?|file)://[^\s/]*(?:pyp" + r"i|pythonhosted|registry|artifact|nexus|devpi)"
    r"|--(?:extra-)?index" + r"-url|--find" + r"-links"
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def repository_files() -> list[Path]:
    """Tracked files and new ones; without git (an unpacked archive) all that are not generated."""
    listing = run("git", "ls-files", "--cached", "--others", "--exclude-standard")
    if listing.returncode == 0:
        return [path for name in listing.stdout.splitlines() if (path := ROOT / name).is_file()]
    generated = re.compile(r"(^|/)(\.\w+|build|dist|__pycache__|[^/]*\.egg-info)/")
    files = (path for path in ROOT.rglob("*") if path.is_file())
    return [path for path in files if not generated.search(path.relative_to(ROOT).as_posix())]


def text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def readme_block(marker: str) -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, found, rest = readme.partition(f"<!-- {marker} -->")
    assert found, f"README.md has no marker <!-- {marker} -->"
    block = re.search(r"^```\w*\n(.*?)^```", rest, re.DOTALL | re.MULTILINE)
    assert block, f"README.md has no code block after <!-- {marker} -->"
    return block[1].strip()


def test_imports_go_one_way() -> None:
    result = run(
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_readme_commands_are_what_ci_runs() -> None:
    install, tests = readme_block("install"), readme_block("tests")
    assert install == 'pip install -e ".[dev]"'
    assert tests == "pytest -n auto"
    ci = ROOT / ".ci" / "run"
    assert run(str(ci), "--commands").stdout.splitlines() == [install, tests]
    assert "pip install" not in ci.read_text(), "it must take its commands from README.md only"


def test_kernel_library_imports_without_heavy_optional_modules() -> None:
    """torchvision may be absent or broken, and the others are no business of the kernels."""
    code = "import sys, pwkernels; print(*sys.modules)"
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert not loaded & {"torchvision", "onnx", "onnxscript", "onnxruntime", "cv2", "matplotlib"}


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY], ids=["machine path", "registry"])
def test_files_know_no_machine(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in repository_files()
        for number, line in enumerate((text_of(path) or "").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_files_stay_short() -> None:
    sources = (
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".cpp", ".h")
    )
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources
    }
    assert lengths
    assert not {name: n for name, n in lengths.items() if n > MAX_LINES}


def test_every_package_folder_is_a_package() -> None:
    """A folder without ``__init__.py`` works in an editable install and is missing in a wheel."""
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    missing = [
        folder.relative_to(ROOT) for folder in folders if not (folder / "__init__.py").exists()
    ]
    assert not missing


def test_version() -> None:
    assert posewarper.__version__ == importlib.metadata.version("posewarper")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{posewarper.__version__}]" in changelog
