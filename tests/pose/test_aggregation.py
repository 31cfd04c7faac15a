"""Prediction over data sets: against a loop that does one person after the other by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_models import random_model
from slow_prediction import assert_by_hand, reader, slow_crop, slow_decode, slow_pose

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.dataset import Boxes, annotated_boxes, load_detections
from posewarper.data.synthetic import write_dataset
from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameError, FrameSource
from posewarper.inference import PosePredictor, Scoring, oks_between, oks_nms, predict_boxes
from posewarper.models import WINDOWS, HRNet, Window
from posewarper.skeleton import Skeleton

FRAMES = 5


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two synthetic videos of five frames with two people each, and the folder of their frames."""
    root = tmp_path_factory.mktemp("clips") / "data"
    written = write_dataset(
        root, videos={"val": 2}, frames=FRAMES, size_wh=(128, 96), people=2, image_format="png",
        progress=False, seed=4,
    )  # fmt: skip
    return written["val"], root


@pytest.fixture(scope="module")
def model():
    return random_model()


def predict(model, data, boxes=None, **options):
    """Results by mode, with the options of the predictor among the others."""
    dataset, root = data
    names = ("flip_test", "shift_flipped", "batch_size", "refinement", "precision")
    of_predictor = {key: options.pop(key) for key in names if key in options}
    source = FrameSource(root, options.pop("missing", "error"), dataset=dataset)
    return predict_boxes(
        PosePredictor(model, device="cpu", **of_predictor),
        annotated_boxes(dataset) if boxes is None else boxes,
        source,
        dataset,
        progress=False,
        **options,
    )


ORDER_2019 = Window((0, -1, -2, 1, 2), (0.3, 0.25, 0.1, 0.25, 0.1))


@pytest.mark.parametrize(
    "window",
    [ORDER_2019, WINDOWS["posetrack-2019"], WINDOWS["paper-causal"]],
    ids=["2019 order", "2019", "paper, causal"],
)
def test_equals_the_model_on_crops_made_by_hand(clips, model, window):
    """At the ends of the videos, too, where the window is clipped."""
    dataset, root = clips
    boxes = annotated_boxes(dataset)
    got = predict(model, clips, window=window).datasets["aggregate"]
    assert {0, FRAMES - 1} <= set(boxes.number.tolist()) and len(boxes) > 12
    assert_by_hand(model, got, boxes, root, window)
    # the test would see a wrong frame or order
    causal = predict(model, clips, window=ORDER_2019.past()).datasets["aggregate"]
    assert np.abs(causal.people.keypoints - got.people.keypoints).max() > 1


def test_single_frames_by_hand(clips, model):
    dataset, root = clips
    got = predict(model, clips, mode="single").datasets
    assert list(got) == ["single"]
    assert_by_hand(model, got["single"], annotated_boxes(dataset), root, Window.equal(0))
    alone = predict(random_model(head=False), clips, mode="single").datasets["single"]
    np.testing.assert_allclose(alone.people.keypoints, got["single"].people.keypoints, atol=1e-4)


def assert_same(a: PoseDataset, b: PoseDataset):
    np.testing.assert_allclose(a.people.keypoints, b.people.keypoints, atol=1e-4)
    np.testing.assert_allclose(a.people.joint_scores, b.people.joint_scores, rtol=1e-4, atol=1e-6)
    for name in ("frame", "bbox", "track_id", "annotation_id"):
        np.testing.assert_array_equal(getattr(a.people, name), getattr(b.people, name))
    np.testing.assert_array_equal(a.frames.labelled, b.frames.labelled)


def test_both_at_once(clips, model):
    both = predict(model, clips, mode="both").datasets
    assert sorted(both) == ["aggregate", "single"]
    for name, dataset in both.items():
        assert_same(dataset, predict(model, clips, mode=name).datasets[name])
    assert np.abs(both["single"].people.keypoints - both["aggregate"].people.keypoints).max() > 1


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 13}, {"workers": 2}])
def test_batches_and_workers_change_nothing(clips, model, options):
    assert_same(
        predict(model, clips, **options).datasets["aggregate"],
        predict(model, clips).datasets["aggregate"],
    )


def test_every_crop_once_and_never_too_many(clips, model, monkeypatch):
    """Frames that a clipped window has twice pass through the backbone once."""
    held = []  # crops of the people that are worked on together, which bound the memory
    original = PosePredictor.heatmaps
    monkeypatch.setattr(
        PosePredictor,
        "heatmaps",
        lambda self, crops: held.append(len(crops)) or original(self, crops),
    )
    dataset, _ = clips
    boxes = annotated_boxes(dataset)
    seen, forward = [], HRNet.forward
    monkeypatch.setattr(HRNet, "forward", lambda s, x: seen.append(len(x)) or forward(s, x))
    predict(model, clips, mode="both", batch_size=12)
    distinct = {n: len({min(max(n + d, 0), FRAMES - 1) for d in range(-2, 3)}) for n in range(5)}
    assert distinct == {0: 3, 1: 4, 2: 5, 3: 4, 4: 3}
    assert sum(seen) == sum(distinct[n] for n in boxes.number.tolist())
    assert max(held) <= 12 and held == seen and len(seen) < len(boxes)  # several people together


def test_flip_test_is_part_of_every_frame(clips, model):
    """H of the window's frames is the mean with the mirror image; the warp sees that."""
    dataset, root = clips
    window = Window((0, 1), (0.5, 0.5))
    got = predict(model, clips, window=window, flip_test=True).datasets["aggregate"]
    boxes = annotated_boxes(dataset)
    row = int(np.flatnonzero(boxes.number == 2)[0])
    read = reader(root, dataset.videos[boxes.video[row]])
    maps = []
    for number in (2, 3):
        crop, *place = slow_crop(read(number), boxes.bbox[row], model.crop_wh, model.padding)
        with torch.no_grad():
            upright, mirrored = model.backbone(torch.stack([crop, crop.flip(-1)]))
        maps.append((upright + mirrored[list(model.skeleton.mirrored)].flip(-1)) / 2)
    with torch.no_grad():
        heatmaps = model.network.aggregate_heatmaps(torch.stack(maps)[None], window)[0]
    joints, heights = slow_decode(heatmaps, *place)
    found = heights > 0
    np.testing.assert_allclose(got.people.keypoints[row, found, :2], joints[found], atol=1e-4)


def test_what_the_result_is(clips, model, tmp_path):
    dataset, _ = clips
    boxes = annotated_boxes(dataset)
    tracks = dataset.people.track_id[boxes.row]
    got = predict(model, clips, track_id=tracks).datasets["aggregate"]
    people = got.people
    assert got.skeleton is model.skeleton and got.videos == dataset.videos
    np.testing.assert_array_equal(got.frames.image_id, dataset.frames.image_id)
    np.testing.assert_array_equal(people.track_id, tracks)
    np.testing.assert_array_equal(people.bbox, boxes.bbox)
    assert people.predicted.all() and got.frames.labelled[people.frame].all()
    assert (predict(model, clips).datasets["aggregate"].people.track_id == -1).all()
    save_coco(got, tmp_path / "x.json")
    back = load_coco(tmp_path / "x.json").people
    np.testing.assert_array_equal(back.keypoints, people.keypoints)
    np.testing.assert_array_equal(back.joint_scores, people.joint_scores)
    np.testing.assert_array_equal(back.score, people.score)


def detections(dataset, root, entries):
    """A detector's boxes in frames of the first video: (frame, box, score)."""
    name = dataset.videos[0].name
    (root / "found.json").write_text(
        json.dumps(
            [
                {"image_name": f"{name}/{n:06d}.png", "bbox": box, "score": score}
                for n, box, score in entries
            ]
        )
    )
    return load_detections(root / "found.json", dataset)


def test_frames_that_are_not_listed(clips, model):
    """A detector may see more frames than were listed; they come after the others."""
    dataset, root = clips
    sparse = dataset.select(frames=np.array([0, 2]))
    boxes = detections(
        sparse,
        root,
        [(3, [30, 20, 40, 60], 0.9), (2, [31, 20, 40, 60], 0.5), (1, [32, 20, 40, 60], 0.7)],
    )
    got = predict(model, (sparse, root), boxes).datasets["aggregate"]
    frames = got.frames
    assert frames.number.tolist() == [0, 2, 1, 3]
    assert frames.labelled.tolist() == [False, True, True, True]
    assert len(set(frames.image_id.tolist())) == 4
    shift = dataset.frames.frame_id[0]
    assert frames.frame_id.tolist() == [shift, shift + 2, shift + 1, shift + 3]
    assert frames.size_wh.tolist() == [[128, 96]] * 4
    assert frames.file_name[3] == dataset.videos[0].file_name(3)
    assert got.people.frame.tolist() == [1, 2, 3]
    assert got.people.bbox[:, 0].tolist() == [31, 32, 30]  # as the frames, not as the file
    order = [1, 2, 0]
    assert_by_hand(
        model,
        got,
        Boxes(
            boxes.videos, boxes.video, boxes.number[order], boxes.bbox[order], boxes.score[order],
            boxes.row[order],
        ),
        root,
        WINDOWS["posetrack-2019"],
    )  # fmt: skip


def test_scores(clips, model):
    dataset, root = clips
    boxes = detections(dataset, root, [(1, [30, 20, 40, 60], 0.5), (3, [50, 10, 40, 60], 0.8)])

    def people(**options):
        return predict(model, clips, boxes, scoring=Scoring(**options)).datasets["aggregate"].people

    heights = people(weigh_joints=False).joint_scores
    assert (heights >= 0).all() and (heights > 0).any() and (heights == 0).any()
    np.testing.assert_allclose(people().joint_scores, heights * [[0.5], [0.8]])
    mean = heights.mean(1)
    np.testing.assert_allclose(people().score, mean * [0.5, 0.8])
    np.testing.assert_allclose(people(person_score="box").score, [0.5, 0.8])
    np.testing.assert_allclose(people(person_score="joints").score, mean)
    zero = heights == 0
    assert (people().keypoints[zero] == 0).all() and (people().keypoints[~zero, 2] == 2).all()


def test_suppression_is_within_frames(clips, model):
    dataset, root = clips
    box = [30, 20, 40, 60]
    boxes = detections(
        dataset, root,
        [(1, box, 0.5), (1, box, 0.9), (1, [80, 30, 20, 30], 0.3), (2, box, 0.4), (2, box, 0.4)],
    )  # fmt: skip
    everybody = predict(model, clips, boxes).datasets["aggregate"].people
    assert len(everybody) == 5
    hard = predict(model, clips, boxes, scoring=Scoring(nms=0.9)).datasets["aggregate"].people
    np.testing.assert_array_equal(hard.keypoints, everybody.keypoints[[1, 2, 3]])
    np.testing.assert_array_equal(hard.score, everybody.score[[1, 2, 3]])
    soft = predict(model, clips, boxes, scoring=Scoring(nms=0.9, soft_nms=True))
    soft = soft.datasets["aggregate"].people
    np.testing.assert_array_equal(soft.keypoints, everybody.keypoints)
    ratio = soft.score / everybody.score
    np.testing.assert_allclose(ratio[[0, 1, 3, 4]], [np.exp(-1 / 0.9), 1, 1, np.exp(-1 / 0.9)])


def test_similar_people_by_the_areas_of_their_crops(clips, model):
    """As in the HRNet code, where a person's area is that of its padded region."""
    dataset, root = clips
    rng = np.random.default_rng(0)
    entries = [(2, [30 + dx, 20 + dy, 40, 60], 0.5) for dx, dy in rng.uniform(0, 6, (8, 2))]
    boxes = detections(dataset, root, entries)
    options = {"weigh_joints": False, "sigmas": 5.0}
    all_of_them = predict(model, clips, boxes, scoring=Scoring(weigh_joints=False))
    people = all_of_them.datasets["aggregate"].people
    area = np.full(8, 40 * 60 * 1.25**2)
    points, present = people.keypoints[..., :2], people.keypoints[..., 2] > 0
    between = oks_between(points, area, np.full(17, 5.0), present)[np.triu_indices(8, 1)]
    threshold = float(np.median(between))  # where a wrong area would change who stays
    kept = oks_nms(points, people.score, area, np.full(17, 5.0), threshold, present=present)
    got = predict(model, clips, boxes, scoring=Scoring(nms=threshold, **options))
    got = got.datasets["aggregate"].people
    np.testing.assert_array_equal(got.bbox, people.bbox[np.sort(kept)])
    wrong = oks_nms(points, people.score, area / 4, np.full(17, 5.0), threshold, present=present)
    assert 1 < len(kept) < 8 and sorted(kept) != sorted(wrong)


def test_own_joints(clips):
    """A model of other joints: only the boxes of the data set count; OKS needs sigmas."""
    rat = Skeleton("rat", ("nose", "tail", "paw"))
    model = random_model(joints=3, skeleton=rat)
    got = predict(model, clips).datasets["aggregate"]
    assert got.skeleton is rat and got.people.keypoints.shape == (len(got.people), 3, 3)
    with pytest.raises(ValueError, match="'rat' has none, which OKS needs"):
        predict(model, clips, scoring=Scoring(nms=0.9))
    scoring = Scoring(nms=0.9, sigmas=0.05)
    assert len(predict(model, clips, scoring=scoring).datasets["aggregate"].people)


@pytest.fixture
def damaged(clips, tmp_path):
    """The first video with its frame 2 cut off, and the second one as it is."""
    dataset, root = clips
    for video in dataset.videos:
        (tmp_path / video.path).mkdir(parents=True)
        for number in range(FRAMES):
            data = (root / video.file_name(number)).read_bytes()
            if video is dataset.videos[0] and number == 2:
                data = data[:-20]
            (tmp_path / video.file_name(number)).write_bytes(data)
    return dataset, tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_frame_stops_with_its_name(damaged, model, workers):
    with pytest.raises(FrameError, match=r"000002\.png: the image is cut off") as caught:
        predict(model, damaged, workers=workers)
    assert "Traceback" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*policy")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_frame_is_left_out(damaged, clips, model, workers):
    dataset = damaged[0]
    window = Window((0, -1), (0.5, 0.5))
    result = predict(model, damaged, missing="skip", window=window, workers=workers)
    name = dataset.videos[0].name
    assert result.left_out == ((name, 2), (name, 3))  # 3 needs 2
    assert result.unreadable == ((name, 2),)
    assert result.summary() == (
        f"2 frames left out, as frames are missing: {name}: 2, 3\n"
        f"1 frames could not be read: {name}: 2"
    )
    got, whole = result.datasets["aggregate"], predict(model, clips, window=window)
    whole = whole.datasets["aggregate"]
    away = np.isin(np.arange(len(got.frames)), [2, 3])
    assert (got.frames.labelled == whole.frames.labelled & ~away).all()
    keep = ~np.isin(whole.people.frame, [2, 3])
    np.testing.assert_allclose(got.people.keypoints, whole.people.keypoints[keep], atol=1e-4)
    assert predict(model, clips).summary() == ""


@pytest.mark.filterwarnings("ignore:.*policy")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("missing", ["nearest", "key"])
def test_replaced_frames_are_told(damaged, model, missing, workers):
    """Also those that only a worker process has met."""
    dataset = damaged[0]
    boxes = annotated_boxes(dataset)
    rows = np.flatnonzero(boxes.number != 2)
    names = ("video", "number", "bbox", "score", "row")
    boxes = Boxes(boxes.videos, *(getattr(boxes, name)[rows] for name in names))
    result = predict(model, damaged, boxes, missing=missing, workers=workers)
    name = dataset.videos[0].name
    assert result.left_out == () and result.unreadable == ((name, 2),)
    assert result.summary() == f"1 frames could not be read: {name}: 2"


@pytest.mark.filterwarnings("ignore:.*policy")
def test_the_key_frame_in_place_of_a_damaged_one(damaged, model):
    dataset, root = damaged
    boxes = annotated_boxes(dataset)
    row = int(np.flatnonzero((boxes.number == 3) & (boxes.video == 0))[0])
    window = Window((-1, 0), (0.5, 0.5))
    boxes = Boxes(
        *(boxes.videos, boxes.video[[row]], boxes.number[[row]], boxes.bbox[[row]]),
        *(boxes.score[[row]], boxes.row[[row]]),
    )
    got = predict(model, damaged, boxes, missing="key", window=window).datasets["aggregate"]
    read = reader(root, dataset.videos[0])
    joints, heights = slow_pose(model, lambda _: read(3), boxes.bbox[0], 3, FRAMES - 1, window)
    found = heights > 0
    np.testing.assert_allclose(got.people.keypoints[0, found, :2], joints[found], atol=1e-4)


def test_wrong_arguments(clips, model):
    dataset, _ = clips
    boxes = annotated_boxes(dataset)
    for mode in ("aggregate", "both"):
        with pytest.raises(ValueError, match=f"mode: '{mode}' needs a model with a warp head"):
            predict(random_model(head=False), clips, mode=mode)
    with pytest.raises(ValueError, match=r"mode: expected one of .*, got 'pair'"):
        predict(model, clips, mode="pair")
    with pytest.raises(ValueError, match=r"track_id: expected \[\d+\], got \[1\]"):
        predict(model, clips, track_id=[3])
    with pytest.raises(ValueError, match="boxes: they belong to other videos"):
        predict(model, clips, replace(boxes, videos=boxes.videos[:1]))
    bbox = boxes.bbox.copy()
    for bad in ((1, 2, 0, 0), (1, 2, -3, 4), (1, np.nan, 3, 4)):
        bbox[1] = bad
        with pytest.raises(ValueError, match="boxes: expected finite numbers and a size above 0"):
            predict(model, clips, replace(boxes, bbox=bbox))
    none = annotated_boxes(dataset.select(people=np.zeros(0, np.int64)))
    with pytest.raises(ValueError, match="boxes: there is none"):
        predict(model, clips, none)


def test_a_box_without_a_width_has_a_height(clips, model):
    dataset, root = clips
    boxes = detections(dataset, root, [(1, [30, 20, 0, 60], 0.5)])
    got = predict(model, clips, boxes).datasets["aggregate"]
    assert np.isfinite(got.people.keypoints).all() and len(got.people) == 1


def test_heatmaps_that_are_not_finite(clips):
    model = random_model()
    model.backbone.final_layer.weight.data[3] = float("nan")
    with pytest.raises(ValueError, match="heatmaps are not finite"):
        predict(model, clips)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"person_score": "best"}, "person_score: expected one of"),
        ({"nms": 0.0}, "nms: expected None or a number"),
        ({"nms": 1.5}, "nms: expected None or a number"),
        ({"soft_nms": True}, "soft_nms: needs a number for nms"),
    ],
)
def test_wrong_scoring(options, message):
    with pytest.raises(ValueError, match=message):
        Scoring(**options)
