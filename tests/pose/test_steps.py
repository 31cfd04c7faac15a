"""Folders that are made in steps: going on, other settings, foreign files, starting over."""

from __future__ import annotations

import json
import time

import pytest

from posewarper.steps import StepFolder

MADE = ("a.txt", "runs", "b.txt")
SETTINGS = {"seed": 1, "sizes": (64, 96), "nested": {"rate": 0.5}}


def open_folder(root, settings=SETTINGS, kind="fit", restart=False, made=MADE):
    return StepFolder(root, kind, settings, made, restart)


def write(path, text="x"):
    def work():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return work


def refuse():
    raise AssertionError("a step that was done is done again")


def test_a_step_is_done_once(tmp_path, capsys):
    folder = open_folder(tmp_path / "deep" / "out")
    one, two = folder.root / "a.txt", folder.root / "runs" / "c.txt"
    folder.run("make", [one, two], lambda: (write(one)(), write(two)()))
    assert capsys.readouterr().out == "make ...\n"
    folder.run("make", [one, two], refuse)
    again = open_folder(tmp_path / "deep" / "out")
    again.run("make", [one, two], refuse)
    assert capsys.readouterr().out == ""
    two.unlink()  # what is missing is made, and nothing else
    with pytest.raises(AssertionError, match="done again"):
        again.run("make", [one, two], refuse)
    again.run("other", [one], refuse)


def test_an_interrupt_keeps_what_is_done_and_the_time(tmp_path):
    folder = open_folder(tmp_path / "out")
    one, two = folder.root / "a.txt", folder.root / "b.txt"
    folder.run("first", [one], write(one))

    def interrupted():
        time.sleep(0.05)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.run("second", [two], interrupted)
    again = open_folder(tmp_path / "out")
    spent = again.seconds["second"]
    assert spent >= 0.05
    again.run("first", [one], refuse)
    again.run("second", [two], lambda: (time.sleep(0.05), write(two)()))
    assert again.seconds["second"] >= spent + 0.05
    assert set(again.seconds) == {"first", "second"}


def test_other_settings_are_refused_and_named(tmp_path):
    folder = open_folder(tmp_path / "out")
    write(folder.root / "a.txt", "kept")()
    for settings, message in (
        ({**SETTINGS, "seed": 2}, r"seed: 1 -> 2"),
        ({**SETTINGS, "sizes": (64, 64)}, r"sizes: \[64, 96\] -> \[64, 64\]"),
        ({**SETTINGS, "new": True}, r"new: None -> True"),
        ({"seed": 1, "sizes": (64, 96)}, r"nested: \{'rate': 0.5\} -> None"),
    ):
        with pytest.raises(ValueError, match=f"out: holds a fit with other settings .*{message}"):
            open_folder(tmp_path / "out", settings)
    assert (folder.root / "a.txt").read_text() == "kept"
    open_folder(tmp_path / "out")  # those of before still go


@pytest.mark.parametrize("restart", [False, True])
def test_folders_of_others_are_not_touched(tmp_path, restart):
    def tree():
        return {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    open_folder(tmp_path / "demo", kind="demo")
    write(tmp_path / "demo" / "a.txt")()
    for name, content in (("list", "[1]"), ("plain", '{"seed": 1}'), ("damaged", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text(content)
        (tmp_path / name / "a.txt").write_text("mine")
    before = tree()
    for name, message in (
        ("full", "out: .*full exists and holds no fit; choose another folder"),
        ("file", "out: .*file exists and holds no fit"),
        ("demo", "out: .*demo holds no fit"),
        ("list", "holds no fit"),
        ("plain", "holds no fit"),
        ("damaged", "settings.json: no valid JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            open_folder(tmp_path / name, restart=restart)
    assert tree() == before
    (tmp_path / "empty").mkdir()
    open_folder(tmp_path / "empty", restart=restart)
    assert json.loads((tmp_path / "empty" / "settings.json").read_text())["kind"] == "fit"


def test_restart_removes_what_it_made_and_nothing_else(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    folder = open_folder(out, made=(*MADE, "linked"))
    folder.run("make", [out / "a.txt"], write(out / "a.txt"))
    write(out / "runs" / "deep" / "c.txt")()
    write(out / "mine.txt")()
    write(out / "notes" / "a.txt")()
    write(elsewhere / "a.txt")()
    (out / "linked").symlink_to(elsewhere)  # a step's folder on another disk
    again = open_folder(out, {"seed": 7}, restart=True, made=(*MADE, "linked"))
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert left == {"settings.json", "mine.txt", "notes/a.txt"}
    assert (elsewhere / "a.txt").exists() and not (out / "linked").is_symlink()
    assert again.seconds == {}
    open_folder(out, {"seed": 7})
    with pytest.raises(ValueError, match="seed: 7 -> 1"):
        open_folder(out)


def test_restart_with_the_same_settings_starts_over(tmp_path):
    folder = open_folder(tmp_path / "out")
    write(folder.root / "a.txt")()
    open_folder(tmp_path / "out", restart=True)
    assert not (folder.root / "a.txt").exists()
