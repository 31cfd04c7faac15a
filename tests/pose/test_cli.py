"""The command line: every command on small data, its help, and its errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import posewarper
from posewarper import cli
from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.tables import PoseDataset


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "synthetic"
    arguments = "--train 2 --val 1 --frames 8 --width 160 --height 120 --people 3 --seed 3"
    assert cli.main(["synthesize", str(out), *arguments.split()]) == 0
    return out


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    summary = cli.command(command).__doc__.splitlines()[0].strip()
    assert summary.split(";")[0].rstrip(".") in re.sub(r"\s+", " ", text)


def test_stats(synthetic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = synthetic / "annotations" / "posetrack_train.json"
    numbers = json.loads(run(capsys, "stats", index, "--json", "true"))
    assert numbers["videos"] == 2 and numbers["frames"] == 16
    assert numbers["labelled_share"] == 1.0
    text = run(capsys, "stats", index)
    assert re.search(r"^frames +16$", text, re.MULTILINE)
    assert re.search(r"^labelled share +100.0 %$", text, re.MULTILINE)
    # the official files of the same videos say the same
    assert (
        json.loads(run(capsys, "stats", synthetic / "annotations" / "train", "--json", "true"))[
            "people"
        ]
        == numbers["people"]
    )


def test_sparsify(synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, out = synthetic / "annotations" / "posetrack_train.json", tmp_path / "sparse.json"
    text = run(capsys, "sparsify", index, out, "--every", 3, "--offset", 1, "--videos", 1)
    assert "1 videos, 3 of 8 frames labelled" in text
    frames = load_coco(out).frames
    assert (frames.number[frames.labelled] - load_coco(out).videos[0].first_frame).tolist() == [
        1,
        4,
        7,
    ]


@pytest.mark.parametrize("kind", ["posetrack17", "posetrack18"])
def test_convert_there_and_back(
    kind: str, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = synthetic / "annotations" / "posetrack_val.json"
    run(capsys, "convert", index, tmp_path / "official", "--to", kind)
    # PoseTrack17 counts frames from 1, so its names no longer lead to these images.
    images = ("--images", synthetic) if kind == "posetrack18" else ()
    run(capsys, "convert", tmp_path / "official", tmp_path / "back.json", *images)
    before, after = load_coco(index), load_coco(tmp_path / "back.json")
    assert len(after.people) == len(before.people) > 0
    assert (after.frames.size_wh == ((160, 120) if images else (0, 0))).all()
    assert after.people.track_id.tolist() == before.people.track_id.tolist()
    seen = before.people.keypoints[:, :, 2] > 0
    assert (abs(after.people.keypoints - before.people.keypoints)[seen][:, :2] < 0.01).all()


def test_evaluate_posetrack(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, out = synthetic / "annotations" / "val", tmp_path / "result.json"
    with pytest.warns(UserWarning, match="without a score"):
        text = run(capsys, "evaluate", truth, truth, "--tracking", "true", "--out", out)
    assert "Head" in text and "Mean" in text
    row = next(line for line in text.splitlines() if line.startswith("AP"))
    assert row.split()[-1] == "100.0"
    result = json.loads(out.read_text())
    assert result["groups"]["AP"]["Mean"] == pytest.approx(100)
    assert result["groups"]["MOTA"]["Mean"] == pytest.approx(100)


def shifted(dataset: PoseDataset, pixels: float) -> PoseDataset:
    dataset.people.keypoints[:, ::2, 0] += pixels
    return dataset


def test_evaluate_pck(synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = synthetic / "annotations" / "posetrack_val.json"
    save_coco(shifted(load_coco(index), 1e3), tmp_path / "moved.json")
    text = run(
        capsys, "evaluate", index, tmp_path / "moved.json", "--metric", "pck",
        "--lengths", "box", "--per_joint", "true", "--out", tmp_path / "pck.csv",
    )  # fmt: skip
    header, row = text.splitlines()[0].split(), text.splitlines()[1].split()
    by_joint = dict(zip(header, row[1:], strict=True))
    assert by_joint["nose"] == "0.0" and by_joint["head_bottom"] == "100.0"
    assert (tmp_path / "pck.csv").read_text().startswith("metric,")


def test_evaluate_oks(synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = synthetic / "annotations" / "posetrack_val.json"
    truth = json.loads(index.read_text())
    results = [
        {key: entry[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 0.9}
        for entry in truth["annotations"]
        if any(entry["keypoints"][2::3])
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = run(capsys, "evaluate", index, tmp_path / "results.json", "--metric", "oks")
    header, row = (line.split() for line in text.splitlines())
    assert header[0] == "AP" and float(row[1]) == pytest.approx(100)


BAD = {
    "missing file": (("stats", "nowhere.json"), "nowhere.json"),
    "empty folder": (("stats", "."), "no JSON files"),
    "nothing to do": (("sparsify", "{index}", "out.json"), "at least one of every"),
    "both rules": (
        ("sparsify", "{index}", "out.json", "--every", "2", "--frames", "2"),
        "got both",
    ),
    "too many videos": (("sparsify", "{index}", "out.json", "--videos", "9"), "1 to 2 videos"),
    "unknown skeleton": (
        ("evaluate", "{index}", "x.json", "--metric", "oks", "--skeleton", "crab"),
        "'crab'",
    ),
    "result name": (("evaluate", "{index}", "x.json", "--out", "x.txt"), ".json or .csv"),
    "folder exists": (("synthesize", "{root}"), "exists and is not empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line(
    name: str,
    synthetic: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    index = synthetic / "annotations" / "posetrack_train.json"
    filled = [argument.format(index=index, root=synthetic) for argument in arguments]
    assert cli.main(filled) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("posewarper: error: ") and message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing may be written"


def test_evaluate_official_reference(capsys: pytest.CaptureFixture[str]) -> None:
    cases = Path(__file__).parents[3] / "shared" / "data" / "poseval"
    if not cases.is_dir():
        pytest.skip("the reference output of the official evaluator is not beside the repository")
    case = cases / "case_a_gt_as_pred"
    text = run(capsys, "evaluate", case / "gt", case / "pred")
    assert re.search(r"^AP .* 100\.0$", text, re.MULTILINE)


def test_a_reader_that_stops_is_no_error(synthetic: Path) -> None:
    index = synthetic / "annotations" / "posetrack_train.json"
    command = [sys.executable, "-m", "posewarper", "stats", str(index)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_labels", interrupted)
    assert cli.main(["stats", "x.json"]) == 130
    assert capsys.readouterr().err == "posewarper: interrupted\n"


def test_python_has_the_same_names() -> None:
    for name in set(cli.COMMANDS) - {"export"}:  # which is a package, too
        assert getattr(posewarper, name) is cli.command(name)
        assert name in dir(posewarper)
    assert cli.command("export") is posewarper.export.export and "export" in dir(posewarper)
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        posewarper.export(Path("none.pt"), Path("x.onnx"))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        posewarper.trian  # noqa: B018


def test_sparsify_by_the_published_protocol(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = synthetic / "annotations" / "posetrack_train.json"
    labelled = {}
    for protocol in ("posetrack", "posetrack-truth"):
        out = tmp_path / f"{protocol}.json"
        run(capsys, "sparsify", index, out, "--protocol", protocol)
        frames = load_coco(out).frames
        labelled[protocol] = set(frames.number[frames.labelled].tolist())
    assert labelled == {"posetrack": {3, 7}, "posetrack-truth": set(range(8))}
