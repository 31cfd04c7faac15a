"""The command ``aggregate``: every format it writes, official files, real images, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonargparse
import numpy as np
import pytest
from random_models import random_model
from slow_prediction import assert_by_hand

from posewarper import cli
from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.dataset import Boxes, annotated_boxes, load_detections
from posewarper.data.formats import load_labels
from posewarper.data.posetrack import save_posetrack
from posewarper.data.sparsify import every_kth
from posewarper.data.synthetic import write_dataset
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameSource
from posewarper.evaluation.posetrack_files import read_video
from posewarper.evaluation.prediction_datasets import official_names, write_predictions
from posewarper.inference import PosePredictor, predict_boxes
from posewarper.models import WINDOWS, save_checkpoint, save_model
from posewarper.prediction import aggregate, augment, propagate
from posewarper.skeleton import POSETRACK, Skeleton

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "posetrack18_sample"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two synthetic videos of four frames with two people each, and a model beside them."""
    root = tmp_path_factory.mktemp("clips") / "data"
    write_dataset(
        root, videos={"val": 2}, frames=4, size_wh=(128, 96), people=2, progress=False, seed=4
    )
    save_model(random_model(), root / "model.pt")
    return root


def index(root):
    return root / "annotations" / "posetrack_val.json"


def run(root, out, **options):
    options = {
        "annotations": index(root), "model": root / "model.pt", "images": root, "device": "cpu",
        **options,
    }  # fmt: skip
    return aggregate(out=out, progress=False, **options)


def test_data_set(root, tmp_path, capsys):
    got = run(root, tmp_path / "poses.json")["aggregate"]
    back, labels = load_coco(tmp_path / "poses.json"), load_coco(index(root))
    np.testing.assert_array_equal(back.people.keypoints, got.people.keypoints)
    rows = annotated_boxes(labels).row
    np.testing.assert_array_equal(back.people.track_id, labels.people.track_id[rows])
    assert back.videos == labels.videos and back.people.predicted.all()
    text = capsys.readouterr()
    assert text.out.startswith(f"aggregate: {len(rows)} people in 8 frames -> ")
    assert text.err == ""


def test_both_modes(root, tmp_path):
    got = run(root, tmp_path / "out", mode="both")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["aggregate.json", "single.json"]
    for name in ("aggregate", "single"):
        back = load_coco(tmp_path / "out" / f"{name}.json")
        np.testing.assert_array_equal(back.people.keypoints, got[name].people.keypoints)
    run(root, tmp_path / "official", mode="both", format="posetrack18")
    names = [f"{number:06d}_synthetic.json" for number in (1, 2)]
    for name in ("aggregate", "single"):
        assert sorted(p.name for p in (tmp_path / "official" / name).iterdir()) == names


@pytest.mark.parametrize("kind", ["posetrack18", "posetrack17"])
@pytest.mark.parametrize("annotations", ["one file", "official"])
def test_posetrack_files(root, tmp_path, kind, annotations):
    """They hold the poses, and the evaluation takes them."""
    truth = root / "annotations" / "val"
    chosen = truth if annotations == "official" else index(root)
    got = run(root, tmp_path / "out", format=kind, annotations=chosen)["aggregate"]
    for position, video in enumerate(got.videos):
        written = read_video(tmp_path / "out" / f"{Path(video.name).name}.json")
        assert written.layout == kind and len(written.frame_names) == 4
        rows = np.flatnonzero(got.frames.video[got.people.frame] == position)
        assert (written.track_id == got.people.track_id[rows]).all()
        nose = got.people.keypoints[rows, 0]
        found = nose[:, 2] > 0
        np.testing.assert_allclose(written.points[found, 13], nose[found, :2])
        assert np.isnan(written.points[~found, 13]).all()
        np.testing.assert_allclose(
            written.scores[found, 13], got.people.joint_scores[rows, 0][found]
        )
    assert cli.main(["evaluate", str(truth), str(tmp_path / "out"), "--tracking", "true"]) == 0


def test_coco_results(root, tmp_path):
    got = run(root, tmp_path / "results.json", format="coco")["aggregate"]
    entries = json.loads((tmp_path / "results.json").read_text())
    assert len(entries) == len(got.people)
    assert [e["image_id"] for e in entries] == got.frames.image_id[got.people.frame].tolist()
    assert [e["score"] for e in entries] == got.people.score.tolist()
    np.testing.assert_array_equal(
        np.reshape([e["keypoints"] for e in entries], (-1, 17, 3))[..., :2],
        got.people.keypoints[..., :2],
    )


def test_command_line(root, tmp_path):
    """Every option from a string; weights alone with what they do not tell."""
    save_checkpoint(random_model().network, tmp_path / "weights.pth")
    arguments = (
        f"{index(root)} {tmp_path}/out.json --model {tmp_path}/weights.pth --images {root} "
        "--device cpu --window paper-causal --flip_test true --nms 0.8 --sigmas 0.05 --rescore box "
        "--crop_wh [64,96] --dilations [1,2,4] --refinement dark --progress false --workers 1 "
        "--precision bf16 --weigh_joints false --skeleton posetrack"
    )
    got = jsonargparse.auto_cli(
        {"aggregate": aggregate}, args=["aggregate", *arguments.split()], as_positional=True
    )["aggregate"]
    assert (got.people.score == 1).all()
    assert len(load_coco(tmp_path / "out.json").people) == len(got.people)


def test_detections(root, tmp_path):
    labels = load_coco(index(root))
    found = [
        {"image_name": labels.frames.file_name[1], "bbox": [30, 20, 40, 60], "score": score}
        for score in (0.1, 0.3, 0.6)
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    options = {"boxes": tmp_path / "found.json", "rescore": "box"}
    got = run(root, tmp_path / "x.json", **options)["aggregate"].people
    assert got.score.tolist() == [0.3, 0.6] and got.track_id.tolist() == [-1, -1]
    got = run(root, tmp_path / "x.json", **options, box_threshold=0.5)["aggregate"].people
    assert got.score.tolist() == [0.6]
    with pytest.raises(ValueError, match=r"found\.json: no detection has a score of 0\.7 or more"):
        run(root, tmp_path / "y.json", **options, box_threshold=0.7)
    assert not (tmp_path / "y.json").exists()


def test_sizes_that_a_file_does_not_tell(root, tmp_path):
    """Boxes are clipped to the image, whose size then comes from the images."""
    data = json.loads(index(root).read_text())
    for image in data["images"]:
        image["width"] = image["height"] = 0
    for person in data["annotations"]:
        person["bbox"][2] += 500
    (tmp_path / "labels.json").write_text(json.dumps(data))
    got = run(root, tmp_path / "x.json", annotations=tmp_path / "labels.json")["aggregate"]
    box = got.people.bbox
    assert (box[:, 0] + box[:, 2] == 127).all()


@pytest.mark.filterwarnings("ignore:.*policy")
def test_missing_frames(root, tmp_path, capsys):
    labels = load_coco(index(root))
    for video in labels.videos:
        (tmp_path / "images" / video.path).mkdir(parents=True)
        for number in range(4):
            if number != 3 or video is not labels.videos[1]:
                name = video.file_name(number)
                (tmp_path / "images" / name).write_bytes((root / name).read_bytes())
    images, out = tmp_path / "images", tmp_path / "x.json"
    with pytest.raises(ValueError, match=r"000002_synthetic/000003\.jpg"):
        run(root, out, images=images)
    assert not out.exists()
    run(root, out, images=images, missing="skip", mode="single")
    name = labels.videos[1].name
    assert f"1 frames left out, as frames are missing: {name}: 3" in capsys.readouterr().err
    assert load_coco(out).frames.labelled.sum() == 7
    run(root, tmp_path / "official", images=images, missing="skip", format="posetrack18")
    truth = root / "annotations" / "val"
    assert cli.main(["evaluate", str(truth), str(tmp_path / "official")]) == 0


def test_wrong_arguments(root, tmp_path):
    with pytest.raises(ValueError, match="out: expected a file to write, got the folder"):
        run(root, tmp_path)
    (tmp_path / "file").touch()
    for options in ({"format": "posetrack17"}, {"mode": "both"}):
        with pytest.raises(ValueError, match="out: expected a folder to write to, got the file"):
            run(root, tmp_path / "file", **options)
    out = tmp_path / "x.json"
    with pytest.raises(ValueError, match="window: expected one of"):
        run(root, out, window="wide")
    save_model(random_model(joints=2, skeleton=Skeleton("t", ("nose", "tail"))), tmp_path / "t.pt")
    with pytest.raises(ValueError, match="posetrack18 needs joints that the model does not have"):
        run(root, tmp_path / "o", model=tmp_path / "t.pt", format="posetrack18")
    save_model(random_model(head=False), tmp_path / "h.pt")
    with pytest.raises(ValueError, match="needs a model with a warp head"):
        run(root, out, model=tmp_path / "h.pt")
    data = json.loads(index(root).read_text()) | {"annotations": []}
    (tmp_path / "empty.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"empty\.json: none of 0 people .* option boxes"):
        run(root, out, annotations=tmp_path / "empty.json")
    assert not out.exists() and not (tmp_path / "o").exists()


def test_joints_that_a_file_does_not_name(root, tmp_path):
    """They are the model's; those that it names need not be, as frames and boxes count only."""
    two = Skeleton("two", ("nose", "tail"))
    save_model(random_model(joints=2, skeleton=two), tmp_path / "two.pt")
    data = json.loads(index(root).read_text())
    del data["categories"]
    for person in data["annotations"]:
        person["keypoints"] = person["keypoints"][:6]
    (tmp_path / "unnamed.json").write_text(json.dumps(data))
    for file in (tmp_path / "unnamed.json", index(root)):
        got = run(root, tmp_path / "x.json", model=tmp_path / "two.pt", annotations=file)
        assert got["aggregate"].skeleton.joints == two.joints and len(got["aggregate"].people) > 8


# Propagation, to files of evaluators.


def sparse(root, out):
    """Every third frame keeps its labels."""
    save_coco(every_kth(load_coco(index(root)), 3), out)
    return out


@pytest.mark.parametrize("kind", ["posetrack18", "posetrack17"])
def test_propagated_labels_are_evaluated(root, tmp_path, capsys, kind):
    labels, out = sparse(root, tmp_path / "sparse.json"), tmp_path / "out"
    options = ["--format", kind, "--method", "linear", "--progress", "false"]
    assert cli.main(["propagate", str(labels), str(out), *options]) == 0
    truth = root / "annotations" / "val"
    capsys.readouterr()
    assert cli.main(["evaluate", str(truth), str(out), "--tracking", "true"]) == 0
    ap = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("AP"))
    assert 60 < float(ap.split()[-1]) <= 100
    plain = propagate(labels, tmp_path / "all.json", method="linear", progress=False)
    for position, video in enumerate(plain.videos):
        written = read_video(out / f"{Path(video.name).name}.json")
        rows = np.flatnonzero(plain.frames.video[plain.people.frame] == position)
        assert written.layout == kind and written.frame_names[-1].endswith("000003.jpg")
        assert (written.track_id == plain.people.track_id[rows]).all()
        nose, scores = plain.people.keypoints[rows, 0], plain.people.joint_scores[rows, 0]
        seen = nose[:, 2] > 0
        np.testing.assert_array_equal(written.points[seen, 13], nose[seen, :2])
        expected = np.where(np.isnan(scores), 1, scores)[seen]  # of labels: 1
        np.testing.assert_array_equal(written.scores[seen, 13], expected)
        assert {0.5, 1} <= set(expected.tolist())


def test_propagated_labels_in_the_frames_of_the_truth(root, tmp_path):
    labels = load_coco(sparse(root, tmp_path / "sparse.json"))
    listed = labels.select(frames=labels.frames.labelled)  # this file says nothing of the others
    save_coco(listed, tmp_path / "listed.json")
    truth = load_coco(index(root)).select(frames=labels.frames.number != 2)
    shorter = tuple(replace(video, frame_count=99) for video in truth.videos)
    truth = replace(truth, videos=shorter)  # what is compared are names
    (tmp_path / "truth").mkdir()
    for path, number in zip(save_posetrack(truth, tmp_path, "posetrack18"), "12", strict=True):
        path.rename(tmp_path / "truth" / f"{number}.json")  # not named like the video
    options = {"method": "linear", "format": "posetrack18", "progress": False}
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match=r"people are in frames that .*truth does not list"):
        propagate(tmp_path / "listed.json", out, truth=tmp_path / "truth", **options)
    assert sorted(path.name for path in out.iterdir()) == ["1.json", "2.json"]
    assert cli.main(["evaluate", str(tmp_path / "truth"), str(out)]) == 0
    propagate(tmp_path / "listed.json", tmp_path / "all", **options)
    assert [len(read_video(path).frame_names) for path in (tmp_path / "all").iterdir()] == [4, 4]
    frames = labels.frames
    videos = tuple(Video(f"other/{n}", 4) for n in range(2))
    other = PoseDataset(labels.skeleton, videos, frames, labels.people)
    save_coco(other, tmp_path / "other.json")
    with pytest.raises(ValueError, match=r"truth: .*other\.json has videos \['other/0'"):
        propagate(
            tmp_path / "listed.json", tmp_path / "no", truth=tmp_path / "other.json", **options
        )
    assert not (tmp_path / "no").exists()
    with pytest.raises(ValueError, match="truth: goes with the formats coco, posetrack18"):
        propagate(tmp_path / "listed.json", tmp_path / "x.json", truth=tmp_path / "truth")


JOBS = {"propagate": propagate, "augment": augment, "aggregate": aggregate}


@pytest.mark.parametrize("job", JOBS)
def test_arguments_are_checked_before_anything_is_read(job, tmp_path):
    """None of these files exists, so that whatever is read first is what the message names."""
    run_job, nothing, out = JOBS[job], tmp_path / "none.json", tmp_path / "out.json"
    with pytest.raises(ValueError, match="out: expected a file to write, got the folder"):
        run_job(nothing, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"out: .*x\.json cannot be written, as .*file is a file"):
        run_job(nothing, tmp_path / "file" / "deep" / "x.json")
    with pytest.raises(ValueError, match=r"model: .* needs a model, got none"):
        run_job(nothing, out, images=tmp_path)
    with pytest.raises(ValueError, match=r"images: .* needs the folder of the frames, got none"):
        run_job(nothing, out, tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"images: expected the folder of the frames, got .*away"):
        run_job(nothing, out, tmp_path / "none.pt", tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        run_job(nothing, out, tmp_path / "none.pt", tmp_path)


@pytest.mark.parametrize("job", ["propagate", "augment"])
def test_what_a_method_does_without(job, root, tmp_path):
    labels, out = sparse(root, tmp_path / "sparse.json"), tmp_path / "out.json"
    JOBS[job](labels, out, method="copy", threshold=0.0, progress=False)
    assert load_coco(out).people.predicted.any()
    JOBS[job](labels, out, images=root, method="flow", threshold=0.0, progress=False)
    with pytest.raises(ValueError, match="images: method 'flow' needs the folder of the frames"):
        JOBS[job](labels, out, method="flow")
    with pytest.raises(ValueError, match="own_weight: expected 0 to 1, got 2"):
        JOBS[job](labels, out, own_weight=2)


def test_propagated_joints_that_posetrack_lacks(root, tmp_path):
    labels = load_coco(sparse(root, tmp_path / "sparse.json"))
    people = replace(
        labels.people, keypoints=labels.people.keypoints[:, :2],
        joint_scores=labels.people.joint_scores[:, :2],
    )  # fmt: skip
    two = replace(labels, skeleton=Skeleton("two", ("nose", "tail")), people=people)
    save_coco(two, tmp_path / "two.json")
    with pytest.raises(
        ValueError, match=r"posetrack17 needs joints that .*two\.json does not have"
    ):
        propagate(tmp_path / "two.json", tmp_path / "o", method="copy", format="posetrack17")


# From data sets to files of evaluators.


def two_videos(tracks=(5, 7, -1)):
    """Three people: two in frame 3 of the first video, one in frame 0 of the second one."""
    videos = (Video("images/val/000001_mpii_test", 4), Video("images/val/000002_bonn_test", 4))
    frames = Frames.make(videos, [0, 0, 1], [1, 3, 0])
    keypoints = np.zeros((3, 17, 3))
    keypoints[..., 0] = np.arange(17) * 10
    keypoints[..., 1] = [[50], [60], [70]]
    keypoints[..., 2] = 2
    keypoints[0, 9] = 0
    scores = np.full((3, 17), 0.5)
    scores[2] = np.nan
    people = People.make(
        [1, 1, 2], keypoints, np.ones((3, 4)), track_id=tracks, joint_scores=scores,
        score=[0.25, np.nan, np.nan],
    )  # fmt: skip
    return PoseDataset(POSETRACK, videos, frames, people)


def test_written_people(tmp_path):
    files = write_predictions(two_videos(), tmp_path / "new")
    assert [f.name for f in files] == ["000001_mpii_test.json", "000002_bonn_test.json"]
    first, second = (read_video(file) for file in files)
    assert first.frame_names == tuple(f"images/val/000001_mpii_test/00000{n}.jpg" for n in (1, 3))
    assert first.frame.tolist() == [1, 1] and first.track_id.tolist() == [5, 7]
    assert np.isnan(first.points[0, 11]).all() and first.points[1, 11].tolist() == [90, 60]
    assert (first.scores[1] == 0.5).all()
    assert second.track_id.tolist() == [0] and (second.scores == 1).all()  # a human's label
    raw = json.loads(files[0].read_text())
    assert [a["score"] for a in raw["annotations"]] == [0.25, 0.5]
    assert [i["id"] for i in raw["images"]] == [10000010001, 10000010003]


def test_frames_of_the_truth(tmp_path):
    """All its frames in its order; people elsewhere are left out with a warning."""
    dataset = two_videos()
    videos = dataset.videos[:1]
    truth = PoseDataset(
        POSETRACK, videos, Frames.make(videos, [0] * 3, [3, 2, 0]),
        People.make([], np.zeros((0, 17, 3)), []), "truth.json",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="1 of 3 people are in frames that truth.json does not"):
        (file,) = write_predictions(dataset, tmp_path, "posetrack17", truth=truth)
    written = read_video(file)
    assert [Path(n).stem for n in written.frame_names] == ["000003", "000002", "000000"]
    assert written.frame.tolist() == [0, 0]
    with pytest.warns(UserWarning, match="left out"):
        write_predictions(dataset, tmp_path / "r.json", "coco", truth=truth)
    entries = json.loads((tmp_path / "r.json").read_text())
    assert [e["image_id"] for e in entries] == [1, 1]


def test_options_of_the_files(tmp_path):
    dataset = two_videos()
    file, _ = write_predictions(dataset, tmp_path, neck="shoulder_midpoint", dummy_people=True)
    written = read_video(file)
    assert written.neck == "shoulder_midpoint" and written.frame.tolist() == [0, 1, 1]
    assert written.points[1, 12].tolist() == [55, 50]  # shoulders at 50 and 60
    with pytest.raises(ValueError, match="format: expected one of"):
        write_predictions(dataset, tmp_path, "posetrack21")
    same = PoseDataset(
        POSETRACK, (Video("a/x", 4), Video("b/x", 4)), dataset.frames, dataset.people
    )
    with pytest.raises(ValueError, match=r"two videos would be written to x\.json"):
        write_predictions(same, tmp_path / "none")


def test_names_of_official_files(tmp_path):
    """PoseTrack17 does not name its files like the videos."""
    dataset = two_videos()
    files = save_posetrack(dataset, tmp_path / "truth", "posetrack17")
    files[0].rename(files[0].with_name("1_5sec.json"))
    files[1].rename(files[1].with_name("2_relpath.json"))
    names = official_names(tmp_path / "truth")
    assert names == {"val/000001_mpii_test": "1_5sec", "val/000002_bonn_test": "2_relpath"}
    loaded = load_labels(tmp_path / "truth")  # without "images/", as in 2019
    written = write_predictions(loaded, tmp_path / "out", "posetrack17", names=names)
    assert [file.name for file in written] == ["1_5sec.json", "2_relpath.json"]
    with pytest.raises(ValueError, match="names: no file of video 'val/000002_bonn_test'"):
        write_predictions(loaded, tmp_path / "out", names={"val/000001_mpii_test": "1"})
    (tmp_path / "truth" / "3.json").write_text((tmp_path / "truth" / "1_5sec.json").read_text())
    with pytest.raises(ValueError, match=r"3\.json: of the same video"):
        official_names(tmp_path / "truth")
    (tmp_path / "truth" / "3.json").write_text("[]")
    with pytest.raises(ValueError, match=r"3\.json: not an official PoseTrack file"):
        official_names(tmp_path / "truth")
    with pytest.raises(FileNotFoundError, match="no JSON files"):
        official_names(tmp_path / "nothing")


# Real images.


@pytest.fixture
def sample(tmp_path):
    if not SAMPLE.exists():
        pytest.skip(f"the PoseTrack18 sample is not there: {SAMPLE}")
    save_model(random_model(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.filterwarnings("ignore:.*policy")
@pytest.mark.parametrize("source", ["official", "detections"])
def test_real_sample(sample, tmp_path, source):
    """Only the first frame of each video is there: the key frame stands in for the others."""
    truth = SAMPLE / "annotations" / "val"
    detected = SAMPLE / "annotations" / "test_posetrack18_human_detections.json"
    boxes = None if source == "official" else detected
    got = aggregate(
        truth, tmp_path / "out", sample, SAMPLE, boxes, 0.6 if boxes else 0.2,
        format="posetrack18", missing="key", device="cpu", progress=False,
    )["aggregate"]  # fmt: skip
    scores = [entry["score"] for entry in json.loads(detected.read_text())]
    count = 14 if boxes is None else sum(score >= 0.6 for score in scores)
    assert len(got.people) == count > 13
    assert cli.main(["evaluate", str(truth), str(tmp_path / "out")]) == 0
    dataset = load_labels(truth)
    if boxes is None:
        chosen = annotated_boxes(dataset)
    else:
        chosen = load_detections(detected, dataset, 0.6)
    order = np.argsort([dataset.videos[v].name for v in chosen.video], kind="stable")[:14]
    by_hand = Boxes(
        *(chosen.videos, chosen.video[order], chosen.number[order], chosen.bbox[order]),
        *(chosen.score[order], chosen.row[order]),
    )
    frozen = tuple(Video(v.name, 1, v.first_frame, v.pattern) for v in chosen.videos)
    assert_by_hand(
        random_model(), got.select(people=np.arange(14)),
        Boxes(frozen, *(vars(by_hand)[k] for k in ("video", "number", "bbox", "score", "row"))),
        SAMPLE, WINDOWS["posetrack-2019"],
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["images", "video file"])
def test_real_frames_in_a_row(sample, tmp_path, kind):
    """Five consecutive frames; the window is clipped at both ends."""
    folder = "videos/000001_mpiinew_test"
    video = Video(folder, 5)
    if kind == "video file":
        video = Video("clip", 5, 0, "", f"{folder}/000001_mpiinew_test.mp4")
    dataset = PoseDataset(
        POSETRACK, (video,), Frames.make([video], [0] * 5, range(5)),
        People.make([], np.zeros((0, 17, 3)), []),
    )  # fmt: skip
    bbox = [[300.0 + 150 * n, 200 - 40 * n, 180 + 30 * n, 420] for n in range(5)]
    boxes = Boxes(
        (video,), *np.array([[0] * 5, range(5)]), np.array(bbox), np.ones(5), np.arange(5)
    )
    source = FrameSource(SAMPLE)
    predictor = PosePredictor(random_model(), device="cpu")
    got = predict_boxes(predictor, boxes, source, dataset, progress=False).datasets["aggregate"]
    assert got.people.frame.tolist() == list(range(5)) and got.frames.labelled.all()
    if kind == "images":
        assert_by_hand(random_model(), got, boxes, SAMPLE, WINDOWS["posetrack-2019"])
    save_coco(got, tmp_path / "x.json")
    assert len(load_coco(tmp_path / "x.json").people) == 5
