"""Command lines as people type them: what is understood, and one line for what is not."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posewarper import __version__, cli, progress


def calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[dict[str, Any]]:
    """What a command's function is called with, in place of the call."""
    function, heard = cli.command(name), []

    def listen(*values: Any, **options: Any) -> None:
        heard.append(options)

    listen.__signature__ = __import__("inspect").signature(  # type: ignore[attr-defined]
        function, eval_str=True
    )
    listen.__doc__ = function.__doc__
    monkeypatch.setattr(cli, "command", lambda _: listen)
    return heard


@pytest.mark.parametrize(
    ("line", "option", "value"),
    [
        ("predict v.mp4 --smooth", "smooth", True),
        ("predict --smooth v.mp4", "smooth", True),
        ("predict v.mp4 --smooth --track true", "smooth", True),
        ("predict v.mp4 --smooth false", "smooth", False),
        ("predict v.mp4 --weigh-joints=false", "weigh_joints", False),
        ("predict v.mp4 --weigh_joints false", "weigh_joints", False),
        ("predict v.mp4 --causal", "causal", True),
        ("predict v.mp4 --crop_wh 192,256", "crop_wh", (192, 256)),
        ("predict v.mp4 --crop_wh [192,256]", "crop_wh", (192, 256)),
        ("predict v.mp4 --dilations 1,2,3", "dilations", (1, 2, 3)),
        ("predict v.mp4 --start_box -5,2,30,40", "start_box", (-5.0, 2.0, 30.0, 40.0)),
        ("predict -- -v.mp4", "video", "-v.mp4"),
        ("fit --labels l.csv a.mp4 b.mp4", "videos", [Path("a.mp4"), Path("b.mp4")]),
        ("fit a.mp4 --labels l.csv b.mp4", "videos", [Path("a.mp4"), Path("b.mp4")]),
        ("fit a.mp4 b.mp4 --labels l.csv", "videos", [Path("a.mp4"), Path("b.mp4")]),
        ("fit --smooth a.mp4 --labels l.csv", "videos", Path("a.mp4")),
        ("stats --json x.json", "json", True),
    ],
)
def test_understood(line: str, option: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = calls(monkeypatch, line.split()[0])
    assert cli.main(line.split()) == 0
    assert heard[0][option] == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected a command: demo, train, "),
        ("stat x.json", "stat: no such command; did you mean stats?"),
        ("qqqq", "qqqq: no such command; expected one of demo, train, "),
        ("stats", "annotations: missing; see posewarper stats --help"),
        ("stats a.json b.json", "expected 1 values without an option's name (ANNOTATIONS), got 2"),
        ("predict v.mp4 --smoth", "--smoth: predict has no such option; did you mean --smooth?"),
        ("predict v.mp4 -x", "-x: predict has no such option; see posewarper predict --help"),
        ("predict v.mp4 --mode huh", "--mode: expected aggregate or single, got 'huh'"),
        ("predict v.mp4 --hold x", "--hold: expected a whole number, got 'x'"),
        ("predict v.mp4 --smooth=maybe", "--smooth: expected true or false, got 'maybe'"),
        ("predict v.mp4 --overlay", "--overlay: expected a path, got nothing"),
        ("fit  --labels l.csv", "videos: expected a path or a list of paths, got nothing"),
        ("predict v.mp4 --box_file= --track", "--box_file: expected a path, got nothing"),
        ("predict v.mp4 --overlay --track", "--overlay: expected a path, got nothing"),
        ("predict v.mp4 --crop_wh 3", "--crop_wh: expected 2 whole numbers such as 1,2, got '3'"),
        (
            "predict v.mp4 --config no.yaml",
            "expected a file of options, got 'no.yaml', which is no",
        ),
        ("synthesize out --train two", "--train: expected a whole number, got 'two'"),
        ("demo --difficulty.speed huh", "--difficulty.speed: expected a number, got 'huh'"),
        ("train --data.train a", "--data.images: missing; see posewarper train --help"),
        ("train --optimization.lr 1", "did you mean --optimizer.lr"),
        ("stats missing.json", "missing.json: "),
    ],
)
def test_one_line_for_a_mistake(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.split(" ") if line else []) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("posewarper: error: ") and message in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_a_wrong_value_in_a_file_of_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("hold: often\n")
    assert cli.main(["predict", "v.mp4", "--config", str(file)]) == 2
    assert "hold: expected a whole number" in capsys.readouterr().err


def test_options_without_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("stats --print_config --json x.json", "stats x.json --json --print_config"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(line.split())
        assert stopped.value.code == 0 and "json: true" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"posewarper {__version__}\n"


def test_a_bar_in_a_file_is_lines_and_the_last_is_not_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    with progress.progress_bar(True, total=3, unit="frame", desc="poses") as bar:
        for _ in range(3):
            bar.update()
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue() and len(lines) == len(set(lines))
    assert sum("3/3" in line for line in lines) == 1
    assert all(line.startswith("poses: ") for line in lines)


@pytest.mark.parametrize("shown", [True, False])
def test_what_is_short_is_one_line_in_a_file(shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress_bar(shown, total=3, unit="frame") as bar:
        for _ in range(3):
            bar.update()
    assert stream.getvalue().count("\n") == shown and ("3/3" in stream.getvalue()) == shown


def test_a_warning_is_one_line_without_code(tmp_path: Path) -> None:
    table = tmp_path / "far.csv"
    table.write_text("image,nose.x,nose.y,tail.x,tail.y\na/01.png,1,2,30,4\n")
    out = tmp_path / "far.slp.json"
    command = [sys.executable, "-c", _WARNS, "convert", str(table), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "posewarper: warning: mind the gap\n"


_WARNS = """
import sys, warnings
from posewarper import cli

real = cli.save_labels
def save(*values, **options):
    warnings.warn("mind the gap")
    real(*values, **options)
cli.save_labels = save
sys.exit(cli.main())
"""
