"""The demo: its steps on a tiny scale, going on after an interrupt, and its measures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import posewarper
from posewarper.data.annotations import load_coco
from posewarper.data.synthetic import load_truth
from posewarper.demonstration import run
from posewarper.demonstration.measures import Gain, Truth

TINY = {
    "train_videos": 2, "val_videos": 2, "frames": 12, "pose_samples": 160, "warp_samples": 160,
    "threshold": 0.0, "progress": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "demo"
    posewarper.demo(out, **TINY)
    return out


def test_all_files_are_there(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    results = json.loads((finished / "results.json").read_text())
    assert len(results["claims"]) == 3
    for claim in results["claims"]:
        assert claim["text"] in page
    assert "data:image/webp" in page
    for name in run.PROPAGATIONS:
        spread = load_coco(finished / "propagated" / f"{name}.json")
        assert spread.people.predicted.any() and not spread.people.predicted.all()
    assert len(results["seconds"]) == len(run.PROPAGATIONS) + 8  # before measuring


def test_only_every_7th_frame_is_labelled(finished: Path) -> None:
    sparse = load_coco(finished / "labels" / "sparse.json")
    assert set(sparse.frames.number[sparse.frames.labelled].tolist()) == {3, 10}


def test_labels_of_validation_videos_are_not_trained_on(finished: Path) -> None:
    for name in ("pose", "warp", "pose-augmented"):
        text = (finished / "runs" / name / "config.yaml").read_text()
        assert "train: " in text and "train: " + str(finished / "videos") not in text
    augmented = load_coco(finished / "labels" / "augmented.json")
    assert all(video.name.startswith("images/train/") for video in augmented.videos)


def test_it_goes_on_where_it_stopped(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "results.json").read_text()
    for name in ("results.json", "report.html"):
        (finished / name).unlink()
    monkeypatch.setattr(run, "train", None)  # nothing is trained again
    posewarper.demo(finished, **TINY)
    steps = [line for line in capsys.readouterr().out.splitlines() if line.endswith("...")]
    assert [step.partition(" ")[2] for step in steps] == ["measure ...", "write the report ..."]
    old, new = json.loads(before), json.loads((finished / "results.json").read_text())
    assert {**old, "seconds": 0} == {**new, "seconds": 0}


def test_other_settings_are_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a demo with other settings \(seed: 0 -> 5\)"):
        posewarper.demo(finished, **TINY, seed=5)


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="holds no demo"):
        posewarper.demo(tmp_path, **TINY)
    (tmp_path / "settings.json").write_text('{"seed": 3}')
    with pytest.raises(ValueError, match="holds no demo"):
        posewarper.demo(tmp_path, **TINY, restart=True)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "settings.json"}


def test_restart_keeps_files_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_steps", lambda *_: [])
    out = tmp_path / "demo"
    with pytest.raises(FileNotFoundError, match=r"results\.json"):  # no step writes it
        posewarper.demo(out, **TINY)
    (out / "notes.txt").write_text("mine")
    (out / "labels").mkdir()
    with pytest.raises(FileNotFoundError, match=r"results\.json"):
        posewarper.demo(out, **TINY, restart=True)
    assert {path.name for path in out.iterdir()} == {"notes.txt", "settings.json"}


def test_groups_and_gaps_equal_a_loop(finished: Path) -> None:
    dense = load_coco(finished / "videos" / "annotations" / "posetrack_train.json")
    sparse = load_coco(finished / "labels" / "sparse.json")
    truth = Truth.of_split(finished / "videos", "train", dense, sparse)
    people, frames = truth.dataset.people, truth.dataset.frames
    assert len(people) == (dense.frames.number[dense.people.frame] % 7 != 3).sum()
    for row in range(len(people)):
        frame = people.frame[row]
        video, number = dense.videos[frames.video[frame]], int(frames.number[frame])
        arrays = load_truth(finished / "videos/truth/train" / f"{Path(video.name).name}.npz")
        blurred = arrays["blurred"][number] or arrays["defocused"][number]
        visibility = people.keypoints[row, :, 2]
        assert (truth.groups["all"][row] == (visibility > 0)).all()
        assert (truth.groups["blurred"][row] == ((visibility > 0) & blurred)).all()
        assert (truth.groups["occluded"][row] == (visibility == 1)).all()
        assert (truth.groups["clear"][row] == ((visibility == 2) & (not blurred))).all()
        track = people.track_id[row]
        labelled = [
            abs(number - n)
            for n in (3, 10)
            if ((dense.people.track_id == track)
                & (dense.frames.video[dense.people.frame] == frames.video[frame])
                & (dense.frames.number[dense.people.frame] == n)).any()
        ]  # fmt: skip
        assert truth.gap[row] == min(labelled, default=-1)


def test_distances_are_in_head_sizes(finished: Path) -> None:
    dense = load_coco(finished / "videos" / "annotations" / "posetrack_val.json")
    nothing = dense.with_labels_of(np.zeros(len(dense.frames), np.bool_))
    truth = Truth.of_split(finished / "videos", "val", dense, nothing)
    keypoints = dense.people.keypoints.copy()
    head = dense.people.head_box
    size = 0.6 * np.hypot(head[:, 2] - head[:, 0], head[:, 3] - head[:, 1])
    keypoints[:, :, 0] += 0.4 * size[:, None]
    keypoints[0, :, 2] = 0  # not predicted
    moved = replace(dense, people=replace(dense.people, keypoints=keypoints))
    distances = truth.distances(moved)
    assert np.isinf(distances[0]).all()
    np.testing.assert_allclose(distances[1:][truth.groups["all"][1:]], 0.4, atol=1e-9)
    exact = truth.distances(dense)
    missed = truth.groups["all"][0].sum()
    total = truth.groups["all"].sum()
    assert truth.pck(distances) == pytest.approx(100 * (1 - missed / total))
    assert truth.pck(distances, threshold=0.25) == 0
    gain = truth.gain(exact, distances)
    assert gain.mean == pytest.approx(100 * missed / total)
    assert gain.low == 0 and gain.high >= gain.mean  # one video of two has the missed person


def test_verdicts() -> None:
    assert Gain(1.0, 0.2, 2.0).verdict == "true"
    assert Gain(1.0, -0.2, 2.0).verdict == "mixed"
    assert Gain(-0.1, -1.0, 2.0).verdict == "false"
    assert str(Gain(1.04, -0.26, 2.0)) == "+1.0 points (95 % interval −0.3 to +2.0)"
