"""``fit`` from end to end, on videos of a few seconds and with trainings of a few steps."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from drawn_animals import ANIMAL, write_animals
from headless_browser import CHROMIUM, Browser
from training_runs import weights

from posewarper import cli
from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.crops import transform_points, turned_crop_matrices
from posewarper.data.formats import load_labels, save_labels
from posewarper.data.people import turned_boxes
from posewarper.data.sparsify import every_kth
from posewarper.data.synthetic import write_dataset
from posewarper.data.tables import PoseDataset, Video
from posewarper.data.video import VideoFile
from posewarper.fitting import fit
from posewarper.fitting import page as page_module
from posewarper.fitting import run as fitting_run
from posewarper.fitting.comparison import Comparison
from posewarper.inference.smoothing import smooth
from posewarper.models import load_model
from posewarper.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {"effort": 0.002, "progress": False}
FRAMES, EVERY = 19, 3


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clip.mp4, two people in it, and labels of every third frame."""
    folder = tmp_path_factory.mktemp("people")
    truth = write_dataset(
        folder / "data", videos=1, frames=FRAMES, size_wh=(112, 96), people=2, seed=5,
        as_video=True, progress=False,
    )["train"]  # fmt: skip
    shutil.move(str(folder / "data" / truth.videos[0].path), folder / "clip.mp4")
    shutil.rmtree(folder / "data")
    video = replace(truth.videos[0], name="clip", path="clip.mp4")
    named = replace(
        truth.frames,
        file_name=tuple(video.file_name(n) for n in truth.frames.number.tolist()),
    )
    truth = replace(truth, videos=(video,), frames=named)
    save_coco(truth, folder / "truth.json")
    save_coco(every_kth(truth, EVERY), folder / "labels.json")
    return folder


@pytest.fixture(scope="module")
def finished(clip: Path) -> Path:
    """A run whose results the tests look at; they copy it before they change it."""
    fit(clip / "clip.mp4", clip / "labels.json", clip / "fit", holdout=0.2, **TINY)
    return clip / "fit"


def again(clip: Path, out: Path, **options: object) -> PoseDataset:
    """The same command with another folder, and what differs."""
    given = {"holdout": 0.2, **TINY, **options}
    return fit(clip / "clip.mp4", clip / "labels.json", out, **given)  # type: ignore[arg-type]


def test_everybody_is_in_every_frame(finished: Path, clip: Path) -> None:
    dense, truth = load_labels(finished / "labels.json"), load_coco(clip / "truth.json")
    assert dense.frames.number.tolist() == list(range(FRAMES)) and dense.frames.labelled.all()
    assert dense.videos[0].path == "clip.mp4" and dense.skeleton == truth.skeleton
    people = dense.people
    tracks = [sorted(people.track_id[rows].tolist()) for rows in dense.people_by_frame()]
    assert tracks == [sorted(set(truth.people.track_id.tolist()))] * FRAMES
    scores = people.joint_scores[people.predicted]
    known = scores[people.keypoints[people.predicted, :, 2] > 0]
    assert ((known > 0) & (known <= 1)).all() and len(np.unique(known)) > 20
    assert not np.isnan(people.score[people.predicted]).any()


def test_human_labels_are_not_touched(finished: Path, clip: Path) -> None:
    dense, labels = load_coco(finished / "labels.json"), load_coco(clip / "labels.json")
    human = ~dense.people.predicted
    numbers = dense.frames.number[dense.people.frame]
    assert (human == (numbers % EVERY == 0)).all()
    assert dense.people.keypoints[human].tobytes() == labels.people.keypoints.tobytes()
    assert dense.people.bbox[human].tobytes() == labels.people.bbox.tobytes()
    assert dense.people.track_id[human].tolist() == labels.people.track_id.tolist()


def test_hidden_labels_teach_nothing(finished: Path) -> None:
    labels = load_coco(finished / "inputs" / "labels.json")
    training = load_coco(finished / "inputs" / "training.json")
    known = set(labels.frames.number[labels.frames.labelled].tolist())
    taught = set(training.frames.number[training.frames.labelled].tolist())
    hidden = known - taught
    assert len(hidden) == round(0.2 * len(known)) == 1
    assert not hidden & {min(known), max(known)}
    assert not set(training.frames.number[training.people.frame].tolist()) & hidden
    for stage in ("pose", "warp"):
        config = (finished / "runs" / stage / "config.yaml").read_text()
        assert f"train: {finished / 'inputs' / 'training.json'}" in config
    with np.load(finished / "comparison.npz") as comparison:
        assert set(comparison["numbers"].tolist()) == hidden
        assert (comparison["distances"] == EVERY).all()


def test_the_model_is_as_planned(finished: Path) -> None:
    settings = json.loads((finished / "settings.json").read_text())
    model = load_model(finished / "model.pt")
    assert model.warps and model.support_box == "own"
    assert list(model.crop_wh) == settings["crop_wh"] and model.padding == settings["padding"]
    assert (model.upright is not None) == settings["upright"]
    assert model.config.width == settings["width"]


def test_the_film_is_as_long_as_the_video(finished: Path, clip: Path) -> None:
    with av.open(str(finished / "overlays" / "clip.mp4")) as film:
        stream = film.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(
            VideoFile(clip / "clip.mp4").frame_rate()
        )
        assert sum(1 for _ in film.decode(stream)) == FRAMES


def test_numbers_of_the_page_are_those_of_the_file(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert set(results["hidden"]) == {"warp", "single", "flow", "flow-both", "linear", "copy"}
    assert results["frames"] == FRAMES and results["labelled_by_hand"] == len(
        range(0, FRAMES, EVERY)
    )
    rows = re.findall(r"<tr.*?</tr>", page, re.DOTALL)
    for method, numbers in results["hidden"].items():
        name = page_module._NAMES[method]
        row = next(row for row in rows if name in row)
        cells = [re.sub(r"<.*?>|\s", "", cell) for cell in re.findall(r"<td.*?</td>", row, re.S)]
        assert cells[:3] == [f"{100 * value:.1f}" for value in numbers["pck"].values()]
        assert cells[4] == f"{numbers['median_px']:.1f}"
    risk = results["hidden"]["warp"]["risk"]
    assert risk["1"] == pytest.approx(1 - results["hidden"]["warp"]["pck"]["0.05"])


def test_methods_that_find_nothing_have_no_median(
    finished: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON has no infinity."""
    out = shutil.copytree(finished, tmp_path / "fit")
    comparison = Comparison.load(out / "comparison.npz")
    errors = comparison.errors.copy()
    errors[comparison.methods.index("single")] = np.inf
    replace(comparison, errors=errors).save(out / "comparison.npz")
    (out / "results.json").unlink()
    again(clip, out)
    single = json.loads((out / "results.json").read_text())["hidden"]["single"]
    assert single["median"] is None and single["median_px"] is None
    assert set(single["pck"].values()) == {0}
    assert re.search(r"single +PCK 0.000 / 0.000 / 0.000   none found", capsys.readouterr().out)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_works_in_a_browser(finished: Path, tmp_path: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    with Browser(tmp_path / "profile") as browser:
        browser.open(finished / "report.html")
        text = browser.run("document.body.innerText")
        broken = browser.run(
            "[...document.images].filter(i => !(i.complete && i.naturalWidth)).length"
        )
        wide = browser.run("document.documentElement.scrollWidth - innerWidth")
        assert browser.errors == [] and broken == 0 and wide <= 0
        assert browser.run("document.images.length + document.querySelectorAll('svg').length") > 4
    assert f"{results['frames']}" in text and "hidden labels" in text.lower()
    for suggestion in results["suggestions"]:
        assert f"frame {suggestion['frame']}" in text


def test_only_what_is_gone_is_made_again(
    finished: Path, clip: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = shutil.copytree(finished, tmp_path / "fit")
    before = {name: (out / name).read_bytes() for name in ("labels.json", "comparison.npz")}
    for name in ("labels.json", "report.html", "overlays/clip.mp4"):
        (out / name).unlink()
    monkeypatch.setattr(fitting_run, "train", None)  # nothing is trained again
    again(clip, out)
    steps = [line for line in capsys.readouterr().out.splitlines() if line.endswith("...")]
    assert [step.partition(" ")[2] for step in steps] == [
        "spread the labels ...", "film clip ...", "write the report ...",
    ]  # fmt: skip
    assert {name: (out / name).read_bytes() for name in before} == before
    again(clip, out)
    assert not [line for line in capsys.readouterr().out.splitlines() if line.endswith("...")]


def test_an_interrupted_run_goes_on_to_the_same_end(
    finished: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in both trainings, a hard end while labels spread and while the film is written."""
    out = tmp_path / "fit"
    logged: list[str] = []
    write_log = RunFolder.write_log

    def interrupt(self: RunFolder, history: object) -> None:
        write_log(self, history)  # type: ignore[arg-type]
        logged.append(self.path.name)
        if logged.count(self.path.name) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_log", interrupt)
        for stage in ("pose", "warp"):
            with pytest.raises(KeyboardInterrupt):
                again(clip, out)
            assert (out / "runs" / stage / "last.pt").exists()
            assert not (out / "runs" / stage / "final.pt").exists()
        for name, left in (("save_coco", "labels.json"), ("write_film", "overlays/clip.mp4")):
            with patch.context() as inner:
                inner.setattr(fitting_run, name, stop)
                with pytest.raises(KeyboardInterrupt):
                    again(clip, out)
            assert not (out / left).exists() and not list(out.rglob("*.partial"))
    again(clip, out)
    assert (out / "labels.json").read_bytes() == (finished / "labels.json").read_bytes()
    one, other = weights(out / "model.pt"), weights(finished / "model.pt")
    assert all((one[name] == other[name]).all() for name in other)
    results = [json.loads((f / "results.json").read_text()) for f in (out, finished)]
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"effort": 0.004}, r"pose_samples: \d+ -> \d+"),
        ({"upright": True}, "upright: False -> True"),
        ({"holdout": 0.0}, "holdout: 1 -> 0"),
        ({"smooth": True}, "smooth: False -> True"),
        ({"skeleton": "other.yaml"}, "skeleton: .*flip_pairs"),
        ({"predicted_as_labels": True}, "predicted_as_labels: False -> True"),
    ],
)
def test_other_settings_are_refused(
    finished: Path, clip: Path, change: dict[str, object], told: str
) -> None:
    if "skeleton" in change:  # the same joints, without mirror pairs
        joints = list(load_coco(clip / "labels.json").skeleton.joints)
        (clip / "other.yaml").write_text(json.dumps({"joints": joints}))
        change = {"skeleton": str(clip / "other.yaml")}
    before = files_of(finished)
    with pytest.raises(ValueError, match=rf"holds a fit with other settings \(.*{told}"):
        again(clip, finished, **change)
    assert files_of(finished) == before


def test_changed_labels_are_refused_and_restart_takes_them(
    finished: Path, clip: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished, tmp_path / "fit")
    (out / "notes.txt").write_text("mine")
    labels = load_coco(clip / "labels.json")
    kept = (clip / "labels.json").read_bytes()
    moved = labels.people.keypoints.copy()
    moved[0, 0, 0] += 1
    try:
        save_coco(
            replace(labels, people=replace(labels.people, keypoints=moved)), clip / "labels.json"
        )
        with pytest.raises(ValueError, match=r"other settings \(\S*labels\.json: \w+ -> \w+\); "):
            again(clip, out)
        dense = again(clip, out, film=False, restart=True)
    finally:
        (clip / "labels.json").write_bytes(kept)
    assert (dense.people.keypoints == moved[0]).all((1, 2)).sum() == 1
    assert (out / "notes.txt").read_text() == "mine" and not (out / "overlays").exists()


def test_a_folder_of_something_else_is_not_touched(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="exists and holds no fit; choose another folder"):
        again(clip, tmp_path, restart=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"labels": None}, "labels: a file with labels"),
        ({"effort": 0.0}, "effort: expected a number above 0, got 0.0"),
        ({"holdout": 0.7}, r"holdout: expected a share of the labels, 0 to 0.5, got 0.7"),
        ({"holdout": 0.01}, "holdout: expected at least three labelled frames .* got 0.01"),
        ({"fps": 0.0}, "fps: expected a number above 0"),
        ({"export": Path("labels.docx")}, "labels.docx: expected a name that ends like"),
        ({"skeleton": "coco"}, "head_bottom"),
        ({"truth": "labels"}, "truth: .* has nobody to compare with"),
    ],
)
def test_bad_arguments_are_found_before_anything_is_made(
    clip: Path, tmp_path: Path, wrong: dict[str, object], told: str
) -> None:
    given = {"labels": clip / "labels.json", "holdout": 0.0, **TINY, **wrong}
    if "truth" in wrong:  # the labels themselves
        given["truth"] = clip / "labels.json"
    with pytest.raises(ValueError, match=told):
        fit(clip / "clip.mp4", out=tmp_path / "fit", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "fit").exists()


@pytest.fixture(scope="module")
def circling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images of an animal that turns once around, its fit and its truth; smoothed."""
    folder = tmp_path_factory.mktemp("animal")
    truth = write_animals(folder / "clip", 24)
    save_coco(truth, folder / "truth.json")
    save_labels(every_kth(truth, 4), folder / "labels.csv")
    fit(
        folder / "clip", folder / "labels.csv", folder / "fit", truth=folder / "truth.json",
        smooth=True, film=False, export=folder / "dense.csv", effort=0.02, progress=False,
    )  # fmt: skip
    return folder


def test_animals_that_turn_stand_upright(circling: Path) -> None:
    assert json.loads((circling / "fit" / "settings.json").read_text())["upright"] is True
    model = load_model(circling / "fit" / "model.pt")
    assert model.upright is not None
    rows, boxes = turned_boxes(load_coco(circling / "truth.json"), model.upright)
    joints = load_coco(circling / "truth.json").people.keypoints[rows, :, :2]
    placed = transform_points(joints, turned_crop_matrices(boxes, model.crop_wh, model.padding))
    assert np.ptp(placed, axis=0).max() < 1  # the same in every crop, in pixels
    wide, tall = np.ptp(placed[0], axis=0)
    assert tall > wide and (placed >= 0).all() and (placed <= model.crop_wh).all()


def test_labels_beat_copies_where_animals_turn(circling: Path) -> None:
    hidden = json.loads((circling / "fit" / "results.json").read_text())["hidden"]
    assert hidden["warp"]["median_px"] < 0.5 * hidden["copy"]["median_px"]
    with np.load(circling / "fit" / "comparison.npz") as comparison:
        assert comparison["numbers"].tolist() == [n for n in range(24) if n % 4]


def test_truth_hides_nothing_by_itself(circling: Path) -> None:
    training = load_coco(circling / "fit" / "inputs" / "training.json")
    assert training.frames.labelled.sum() == 6  # fewer than 20 labels


def test_labels_are_exported(circling: Path) -> None:
    dense = load_coco(circling / "fit" / "labels.json")
    exported = load_labels(circling / "dense.csv", video=circling / "clip")
    assert exported.skeleton.joints == ANIMAL.joints
    np.testing.assert_allclose(exported.people.keypoints, dense.people.keypoints, atol=1e-6)
    assert exported.people.predicted.tolist() == dense.people.predicted.tolist()
    with open(circling / "dense.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 24
    assert not (circling / "fit" / "overlays").exists()


def test_smooth_is_the_filter(circling: Path, tmp_path: Path) -> None:
    smoothed = load_coco(circling / "fit" / "labels.json")
    out = shutil.copytree(circling / "fit", tmp_path / "fit")
    settings = json.loads((out / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps({**settings, "smooth": False}))
    (out / "labels.json").unlink()
    plain = fit(
        circling / "clip", circling / "labels.csv", out, truth=circling / "truth.json",
        film=False, effort=0.02, progress=False,
    )  # fmt: skip
    filtered = smooth(plain, [np.arange(24) / 25]).people.keypoints
    np.testing.assert_allclose(smoothed.people.keypoints, filtered, atol=1e-9)
    human = ~plain.people.predicted
    assert (smoothed.people.keypoints[human] == plain.people.keypoints[human]).all()
    assert (smoothed.people.keypoints != plain.people.keypoints)[~human, :, :2].any((1, 2)).all()


def test_several_videos_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The truth names the videos in another order than the labels."""
    monkeypatch.chdir(tmp_path)
    one = write_animals(Path("films"), 10, video="a.mp4")
    other = write_animals(Path("films"), 13, animals=2, turns=0.4, video="b.mp4")
    other = replace(
        other,
        frames=replace(other.frames, image_id=other.frames.image_id + 100),
        people=replace(other.people, annotation_id=other.people.annotation_id + 100),
    )
    save_coco(every_kth(PoseDataset.concatenate([one, other], "ab"), 3), Path("labels.json"))
    save_coco(PoseDataset.concatenate([other, one], "ba"), Path("truth.json"))
    status = cli.main(
        "fit films/a.mp4 films/b.mp4 --labels labels.json --truth truth.json --effort 0.002 "
        "--progress false".split()
    )
    shown = capsys.readouterr()
    assert status == 0, shown.err
    assert "2 videos, 23 frames, 9 labelled" in shown.out and "in 3 tracks" in shown.out
    dense = load_coco(Path("fit/labels.json"))
    people = np.bincount(dense.people.frame, minlength=23)
    assert people.tolist() == [1] * 10 + [2] * 13
    assert sorted(p.name for p in Path("fit/overlays").iterdir()) == ["a.mp4", "b.mp4"]
    with np.load("fit/comparison.npz") as comparison:
        assert np.bincount(comparison["videos"]).tolist() == [6, 16]
        # Copies of labels three frames away at most are never far off, in the right video.
        errors = comparison["errors"][comparison["methods"].tolist().index("copy")]
    assert errors.max() < 1


def test_a_damaged_frame(tmp_path: Path) -> None:
    truth = write_animals(tmp_path / "clip", 10)
    save_coco(every_kth(truth, 3), tmp_path / "labels.json")
    broken = tmp_path / "clip" / "000004.png"
    broken.write_bytes(broken.read_bytes()[:200])
    given = {**TINY, "film": True, "holdout": 0.0}
    with pytest.raises(ValueError, match=r"000004\.png"):
        fit(tmp_path / "clip", tmp_path / "labels.json", tmp_path / "stops", **given)
    dense = fit(
        tmp_path / "clip", tmp_path / "labels.json", tmp_path / "goes", missing="skip", fps=10,
        **given,
    )  # fmt: skip
    assert dense.frames.number[dense.people.frame].tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    with av.open(str(tmp_path / "goes" / "overlays" / "clip.mp4")) as film:
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(video=0)]
        assert float(film.streams.video[0].average_rate) == 10
    assert len(frames) == 10
    assert [int(f.std() < 2) for f in frames] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]  # grey


def test_one_labelled_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = write_animals(tmp_path / "clip", 7, animals=2, turns=0.1)
    only = truth.with_labels_of(np.arange(7) == 2)
    save_coco(only, tmp_path / "labels.json")
    dense = fit(tmp_path / "clip", tmp_path / "labels.json", tmp_path / "fit", **TINY)
    assert "only frame 2 is labelled" in capsys.readouterr().out
    tracks = [dense.people.track_id[rows].tolist() for rows in dense.people_by_frame()]
    assert [sorted(t) for t in tracks] == [[0, 1]] * 7
    assert dense.people.predicted.sum() == 12
    results = json.loads((tmp_path / "fit" / "results.json").read_text())
    assert "hidden" not in results and results["labelled_by_hand"] == 1
    assert "only frame 2 is labelled" in (tmp_path / "fit" / "report.html").read_text()


def test_images_of_two_sizes_with_labels_on_all_of_them(clip: Path, tmp_path: Path) -> None:
    """Images that were taken out to be labelled: nothing is left to predict, a model is made."""
    truth = load_coco(clip / "truth.json")
    folder = tmp_path / "frames"
    folder.mkdir()
    film = VideoFile(clip / "clip.mp4")
    for number in range(0, FRAMES, EVERY):
        image = film.read(number)
        assert image is not None
        larger = image if number % 2 else np.pad(image, ((0, 8), (0, 16), (0, 0)))
        cv2.imwrite(str(folder / f"img{number:03d}.png"), larger[..., ::-1])
    labels = every_kth(truth, EVERY).select(frames=truth.frames.number % EVERY == 0)
    video = Video("frames", FRAMES, 0, "img%03d.png")
    numbers = labels.frames.number.tolist()
    names = tuple(video.file_name(number) for number in numbers)
    frames = replace(labels.frames, file_name=names, size_wh=np.zeros((len(numbers), 2), np.int64))
    save_coco(replace(labels, videos=(video,), frames=frames), tmp_path / "labels.json")
    found = fit(folder, tmp_path / "labels.json", tmp_path / "fit", holdout=0, **TINY)
    assert not found.people.predicted.any() and len(found.people) == len(labels.people)
    sizes = found.frames.size_wh[np.isin(found.frames.number, numbers)]
    assert {tuple(size) for size in sizes.tolist()} == {(112, 96), (128, 104)}
    for name in ("model.pt", "report.html", "overlays/frames.mp4"):
        assert (tmp_path / "fit" / name).stat().st_size > 0
