"""Labels spread by the network, against loops that do one person and frame at a time by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import cv2
import jsonargparse
import numpy as np
import pytest
import torch
from random_models import SMALL, random_model

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.crops import (
    box_to_center_scale,
    clean_boxes,
    crop,
    crop_matrices,
    normalise,
    transform_points,
)
from posewarper.data.sparsify import every_kth
from posewarper.data.synthetic import write_dataset
from posewarper.data.video import FrameError, FrameSource
from posewarper.heatmaps import decode, encode
from posewarper.inference import warping
from posewarper.inference.predictor import PosePredictor
from posewarper.inference.propagation import propagate_labels
from posewarper.models import PoseModel, PoseWarper, save_model
from posewarper.prediction import propagate
from posewarper.skeleton import POSETRACK, Skeleton

THREE = Skeleton("three", ("nose", "left_hand", "right_hand"))

linear = partial(propagate_labels, source=None, method="linear", progress=False)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two synthetic videos of nine frames, of which 0, 4, 8 are labelled, two people each."""
    root = tmp_path_factory.mktemp("clips") / "data"
    written = write_dataset(
        root, videos={"val": 2}, frames=9, size_wh=(128, 96), people=2, image_format="png",
        progress=False, seed=5,
    )  # fmt: skip
    return every_kth(written["val"], 4), root


@pytest.fixture(scope="module")
def model():
    return random_model()


def spread(model, clips, method="warp", batch_size=64, missing="error", **options):
    """The result, and the source that was read from."""
    dataset, root = clips
    source = FrameSource(root, missing, dataset=dataset)
    predictor = PosePredictor(model, device="cpu", batch_size=batch_size)
    result = propagate_labels(
        dataset, source, method, predictor=predictor, progress=False, **options
    )
    return result, source


def test_a_fresh_model_leaves_labels_where_they_are(clips):
    torch.manual_seed(0)
    fresh = PoseModel(PoseWarper(SMALL).eval(), SMALL, crop_wh=(64, 96), refinement="dark")
    for repredict in (False, True):
        expected, _ = spread(fresh, clips, "copy", repredict=repredict)
        result, _ = spread(fresh, clips, repredict=repredict)
        predicted = result.people.predicted
        assert predicted.all() if repredict else 20 < predicted.sum() < len(predicted)
        np.testing.assert_array_equal(result.people.frame, expected.people.frame)
        np.testing.assert_array_equal(result.people.track_id, expected.people.track_id)
        both = (result.people.keypoints[..., 2] > 0) & (expected.people.keypoints[..., 2] > 0)
        assert both.mean() > 0.6
        error = (result.people.keypoints - expected.people.keypoints)[both]
        assert np.abs(error[:, :2]).max() < 0.75  # a heatmap pixel is about 6 here
        assert np.median(np.abs(error[:, :2])) < 0.02
        assert (result.people.joint_scores[predicted][both[predicted]] > 0.9).all()


def crop_by_hand(model, image, box):
    """A crop [1, 3, H, W] as the network wants it, and centre and scale."""
    center, scale = box_to_center_scale(box[None], model.crop_wh, model.padding)
    pixels = crop(image, crop_matrices(center, scale, model.crop_wh), model.crop_wh)
    return normalise(torch.from_numpy(pixels).movedim(-1, 1)), center, scale


def painted_by_hand(model, keypoints, center, scale, rounded):
    joints = transform_points(keypoints[None, :, :2], crop_matrices(center, scale, model.crop_wh))
    painted, weight = encode(
        joints, (keypoints[None, :, 2] > 0).astype(float), model.heatmap_hw, model.sigma,
        rounded=rounded,
    )  # fmt: skip
    return torch.from_numpy(painted), weight[0] > 0


def decoded_by_hand(model, maps, center, scale):
    places, scores = decode(maps, model.refinement, model.sigma)
    matrix = crop_matrices(center, scale, model.crop_wh)[0]
    full = np.concatenate([matrix, [[0, 0, 1]]])
    x_y = places[0].double().numpy() * 4
    back = np.linalg.solve(full, np.concatenate([x_y, np.ones((len(x_y), 1))], 1).T)
    return back[:2].T, scores[0].numpy()


def check_person(result, video, number, track, joints, scores, labelled):
    """A predicted person has these joints, but for those outside the image."""
    rows = np.flatnonzero(
        (result.frames.video[result.people.frame] == video)
        & (result.frames.number[result.people.frame] == number)
        & (result.people.track_id == track)
    )
    inside = ((joints > -0.5) & (joints < [127.5, 95.5])).all(1) & labelled & (scores > 0)
    if not inside.any():
        assert len(rows) == 0
        return 0
    (row,) = rows.tolist()
    keypoints = result.people.keypoints[row]
    np.testing.assert_array_equal(keypoints[:, 2] > 0, inside)
    np.testing.assert_allclose(keypoints[inside, :2], joints[inside], atol=1e-3)
    np.testing.assert_allclose(result.people.joint_scores[row, inside], scores[inside], rtol=1e-4)
    return int(inside.sum())


@pytest.mark.parametrize("rounded", (False, True))
def test_warp_from_the_nearest_label_is_propagation_by_hand(clips, model, rounded):
    """The 2019 way: crops of the label's box, PoseWarper.propagate, one pair at a time."""
    dataset, _ = clips
    result, source = spread(model, clips, rounded=rounded, repredict=rounded)
    assert source.decoded == 18  # each frame once
    joints_checked = 0
    network = model.network
    boxes, _ = clean_boxes(dataset.people.bbox, (128, 96))
    for row in range(len(dataset.people)):
        frame = int(dataset.people.frame[row])
        v, key = int(dataset.frames.video[frame]), int(dataset.frames.number[frame])
        keypoints, track = dataset.people.keypoints[row], int(dataset.people.track_id[row])
        reach = {0: (0, 1, 2), 4: (3, 4, 5, 6), 8: (7, 8)}[key]
        for number in (n for n in reach if n != key or rounded):
            images = [source.read(dataset.videos[v], n) for n in (key, number)]
            key_crop, center, scale = crop_by_hand(model, images[0], boxes[row])
            support, _, _ = crop_by_hand(model, images[1], boxes[row])
            painted, in_box = painted_by_hand(model, keypoints, center, scale, rounded)
            with torch.no_grad():
                maps = network.propagate(key_crop, support, painted)
            joints, scores = decoded_by_hand(model, maps, center, scale)
            joints_checked += check_person(result, v, number, track, joints, scores, in_box)
    assert joints_checked > 200


def test_warp_from_both_labels_and_the_own_heatmaps_by_hand(clips, model):
    dataset, _ = clips
    result, source = spread(model, clips, sources="both", own_weight=0.3, batch_size=5)
    network = model.network
    boxes, _ = clean_boxes(dataset.people.bbox, (128, 96))
    rows = {
        (
            int(dataset.frames.video[dataset.people.frame[row]]),
            int(dataset.frames.number[dataset.people.frame[row]]),
            int(dataset.people.track_id[row]),
        ): row
        for row in range(len(dataset.people))
    }
    joints_checked = 0
    for (v, key, track), first in rows.items():
        last = rows.get((v, key + 4, track))
        if last is None:
            continue
        for number in range(key + 1, key + 4):
            share = (number - key) / 4
            box = (1 - share) * boxes[first] + share * boxes[last]
            frames = (key, number, key + 4)
            images = [source.read(dataset.videos[v], n) for n in frames]
            with torch.no_grad():
                crops = [crop_by_hand(model, image, box) for image in images]
                h = [network.heatmaps(pixels) for pixels, _, _ in crops]
                _, center, scale = crops[0]
                total, weight = torch.zeros_like(h[1]), torch.zeros(17)
                for row, there, w in ((first, h[0], 1 - share), (last, h[2], share)):
                    keypoints = dataset.people.keypoints[row]
                    painted, in_box = painted_by_hand(model, keypoints, center, scale, False)
                    w_joint = w * torch.from_numpy(in_box).float()
                    warped = network.warp_heatmaps(h[1], there, painted)
                    total += w_joint[:, None, None] * warped
                    weight += w_joint
                mean = 0.7 * total / weight.clamp_min(1e-9)[:, None, None] + 0.3 * h[1]
            joints, scores = decoded_by_hand(model, mean, center, scale)
            labelled = (weight > 0).numpy()
            joints_checked += check_person(result, v, number, track, joints, scores, labelled)
    assert joints_checked > 100


def test_single_frames_by_hand(clips, model):
    """The prediction in the label's box, for joints that the label has."""
    dataset, _ = clips
    result, source = spread(model, clips, "single")
    boxes, _ = clean_boxes(dataset.people.bbox, (128, 96))
    joints_checked = 0
    for row in range(len(dataset.people)):
        frame = int(dataset.people.frame[row])
        v, key = int(dataset.frames.video[frame]), int(dataset.frames.number[frame])
        number = {0: 2, 4: 3, 8: 7}[key]
        image = source.read(dataset.videos[v], number)
        pixels, center, scale = crop_by_hand(model, image, boxes[row])
        with torch.no_grad():
            maps = model.network.heatmaps(pixels)
        joints, scores = decoded_by_hand(model, maps, center, scale)
        labelled = dataset.people.keypoints[row, :, 2] > 0
        track = int(dataset.people.track_id[row])
        joints_checked += check_person(result, v, number, track, joints, scores, labelled)
    assert joints_checked > 30


def same_people(one, other):
    np.testing.assert_array_equal(one.people.frame, other.people.frame)
    np.testing.assert_array_equal(one.people.track_id, other.people.track_id)
    np.testing.assert_allclose(one.people.keypoints, other.people.keypoints, atol=1e-3)
    np.testing.assert_allclose(one.people.joint_scores, other.people.joint_scores, rtol=1e-4)


@pytest.mark.parametrize("sources", ("nearest", "both"))
def test_batches_change_nothing_and_frames_are_decoded_once(clips, model, sources):
    whole, source = spread(model, clips, sources=sources)
    assert source.decoded == 18
    few, source = spread(model, clips, sources=sources, batch_size=3)
    dataset, root = clips
    same_people(whole, few)
    source = FrameSource(root, dataset=dataset, cached_frames=1)  # so the heatmaps are what is kept
    predictor = PosePredictor(model, device="cpu", batch_size=2)
    propagate_labels(dataset, source, predictor=predictor, sources=sources, progress=False)
    assert source.decoded == 18


@pytest.mark.parametrize(("sources", "most_maps"), [("nearest", 2), ("both", 0)])
def test_memory_does_not_grow_with_the_video(clips, model, sources, most_maps, monkeypatch):
    """Kept between two batches are labels' heatmaps (in the nearest label's box) or their frames,
    those around the frame only."""
    kept = []

    class Watched(warping._Heatmaps):
        def of(self, crops):
            found = super().of(crops)
            kept.append((len(self._maps), len(self._images)))
            return found

    monkeypatch.setattr(warping, "_Heatmaps", Watched)
    dataset, root = clips
    one = dataset.select(people=dataset.people.track_id == 1)
    spread(model, (one, root), sources=sources, batch_size=1)
    maps, images = np.array(kept).T
    assert len(kept) == 12
    assert maps.max() <= most_maps and images.max() <= 2
    assert maps[-1] == images[-1] == 0


def test_own_weight_of_one_is_the_single_frame(clips, model):
    options = {"sources": "both", "box": "interpolated"}
    own, _ = spread(model, clips, own_weight=1.0, **options)
    single, _ = spread(model, clips, "single", **options)
    seen = (own.people.keypoints[..., 2] > 0) & (single.people.keypoints[..., 2] > 0)
    assert seen.sum() > 100
    np.testing.assert_allclose(own.people.keypoints[seen], single.people.keypoints[seen], atol=1e-3)


def test_video_files_give_what_their_frames_give(clips, model, tmp_path):
    dataset, root = clips
    source = FrameSource(root)
    for video in dataset.videos:
        path = (tmp_path / video.path).with_suffix(".avi")
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"FFV1"), 15, (128, 96))
        for number in range(9):
            writer.write(cv2.cvtColor(source.read(video, number), cv2.COLOR_RGB2BGR))
        writer.release()
    file = cv2.VideoCapture(str(path))
    exact = np.abs(file.read()[1].astype(int) - cv2.cvtColor(source.read(video, 0), 4)).max() == 0
    file.release()
    expected, _ = spread(model, clips)
    got, _ = spread(model, (dataset, tmp_path))
    np.testing.assert_array_equal(got.people.frame, expected.people.frame)
    if exact:
        same_people(got, expected)
    else:  # this OpenCV converts colours on the way: a few levels
        error = np.abs(got.people.keypoints - expected.people.keypoints)
        assert np.median(error) < 0.5


def broken(clips, tmp_path, *numbers):
    """The clips without some frames of the first video."""
    import shutil

    dataset, root = clips
    shutil.copytree(root / "images", tmp_path / "images")
    for number in numbers:
        (tmp_path / dataset.videos[0].file_name(number)).unlink()
    return dataset, tmp_path


def frames_of(dataset, video):
    frame = dataset.people.frame
    return set(dataset.frames.number[frame[dataset.frames.video[frame] == video]].tolist())


@pytest.mark.parametrize("method", ("warp", "single", "flow"))
def test_missing_frames(clips, model, tmp_path, method):
    damaged = broken(clips, tmp_path, 2, 6)
    whole, _ = spread(model, clips, method)
    with pytest.raises(FrameError, match=r"00000[26]\.png"):
        spread(model, damaged, method)
    with pytest.warns(UserWarning, match=r"policy: skip"):
        result, source = spread(model, damaged, method, missing="skip")
    assert frames_of(result, 0) == frames_of(whole, 0) - {2, 6}
    assert not result.frames.labelled[[2, 6]].any()
    assert {number for _, number in source.problems} == {2, 6}
    others = ~np.isin(whole.people.frame, [2, 6])
    same_people(result, replace(whole, people=whole.people[others]))
    with pytest.warns(UserWarning, match=r"policy: nearest"):
        result, _ = spread(model, damaged, method, missing="nearest")
    assert frames_of(result, 0) == frames_of(whole, 0)


def test_missing_support_frames_are_replaced_by_the_labelled_one(clips, model, tmp_path):
    """Policy "key", as in 2019: the frame looks like the label's, so the pose is that of the label
    predicted again."""
    damaged = broken(clips, tmp_path, 1)
    with pytest.warns(UserWarning, match=r"policy: key"):
        result, _ = spread(model, damaged, missing="key", repredict=True)
    one, other = (result.people[result.people.frame == number] for number in (0, 1))
    assert len(one) > 0
    np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1e-3)


def test_a_missing_labelled_frame(clips, model, tmp_path):
    """Its label cannot be moved; from both sides the other one still can."""
    damaged = broken(clips, tmp_path, 4)
    with pytest.warns(UserWarning, match=r"policy: skip"):
        near, _ = spread(model, damaged, missing="skip")
        both, _ = spread(model, damaged, missing="skip", sources="both")
    assert frames_of(near, 0) == {0, 1, 2, 4, 7, 8}  # the label itself stays
    assert frames_of(both, 0) == set(range(9))


def test_models_that_do_not_fit(clips, model):
    with pytest.raises(ValueError, match=r"model: a single-frame model without a warp head"):
        spread(random_model(head=False), clips)
    assert len(spread(random_model(head=False), clips, "single")[0].people) > 20
    other = random_model(joints=3, skeleton=THREE)
    with pytest.raises(ValueError, match=r"expected the joints of the model, \['nose', 'left_hand"):
        spread(other, clips)
    with pytest.raises(ValueError, match=r"own_weight: expected 0 to 1, got 1.5"):
        spread(model, clips, own_weight=1.5)
    with pytest.raises(ValueError, match=r"box: expected 'interpolated' with two labels"):
        spread(model, clips, sources="both", box="label")


@pytest.mark.parametrize("part", ("backbone", "head"))
@pytest.mark.parametrize("method", ("warp", "single"))
def test_heatmaps_that_are_not_finite(clips, method, part):
    model = random_model()
    if part == "backbone":
        model.backbone.final_layer.weight.data[3] = float("nan")
    else:
        model.network.warp.weight.data[:, 3] = float("nan")
    if (method, part) == ("single", "head"):  # is not asked
        assert len(spread(model, clips, method)[0].people) > 20
        return
    with pytest.raises(ValueError, match="model: its heatmaps are not finite"):
        spread(model, clips, method)


def test_command(clips, model, tmp_path, capsys):
    dataset, root = clips
    save_coco(dataset, tmp_path / "sparse.json")
    save_model(model, tmp_path / "model.pt")
    out = tmp_path / "all.json"
    arguments = [
        str(tmp_path / "sparse.json"), str(out), f"--model={tmp_path / 'model.pt'}",
        f"--images={root}", "--sources=both", "--own_weight=0.3", "--device=cpu",
        "--progress=false",
    ]  # fmt: skip
    jsonargparse.auto_cli(propagate, args=arguments, as_positional=True)
    printed = capsys.readouterr().out
    assert "6 labelled frames -> 12 more" in printed and str(out) in printed
    again = tmp_path / "again.json"
    propagate(tmp_path / "sparse.json", again, method="copy", repredict=True, progress=False)
    assert "6 labelled frames (6 predicted again) -> 12 more" in capsys.readouterr().out
    written = load_coco(out)
    assert written.skeleton == POSETRACK and written.frames.labelled.all()
    expected, _ = spread(model, clips, sources="both", own_weight=0.3)
    same_people(written, expected)
    # the baselines read no model
    arguments = [str(tmp_path / "sparse.json"), str(out), "--method=linear"]
    jsonargparse.auto_cli(propagate, args=[*arguments, "--progress=false"], as_positional=True)
    same_people(load_coco(out), linear(dataset))


def test_nothing_is_written_after_an_error(clips, model, tmp_path):
    dataset, root = broken(clips, tmp_path, 2)
    save_coco(dataset, tmp_path / "sparse.json")
    save_model(model, tmp_path / "model.pt")
    out = tmp_path / "all.json"
    with pytest.raises(FrameError, match=r"000002\.png"):
        propagate(
            tmp_path / "sparse.json", out, tmp_path / "model.pt", root, device="cpu", progress=False
        )
    assert not out.exists()
