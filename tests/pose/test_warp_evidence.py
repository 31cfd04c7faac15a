"""What the warp makes of several opinions: against a loop over joints, and against heads and
networks of which one knows what they do."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from random_models import SMALL, random_model

from posewarper.data.crops import (
    box_to_center_scale,
    crop,
    crop_matrices,
    normalise,
    transform_points,
)
from posewarper.data.people import usable_people
from posewarper.data.sparsify import every_kth
from posewarper.data.synthetic import write_dataset
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.tracks import human_labels, labels_of, targets_of
from posewarper.data.upright import between, reference_pose
from posewarper.data.video import FrameSource
from posewarper.heatmaps import decode, encode
from posewarper.inference.predictor import PosePredictor
from posewarper.inference.propagation import PropagationOptions, make_propagator
from posewarper.inference.warping import Warp
from posewarper.models import PoseModel, PoseWarper
from posewarper.skeleton import Skeleton

pytestmark = pytest.mark.usefixtures("one_thread")


class Holes(FrameSource):
    """Without some frames, which are skipped."""

    missing_numbers: frozenset[int] = frozenset()

    def read(self, video, number, key=None):
        return None if number in self.missing_numbers else super().read(video, number, key=key)


# ---- by hand ----


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A synthetic video of 13 frames, of which 0, 5, 10 are labelled; two people."""
    root = tmp_path_factory.mktemp("clip") / "data"
    written = write_dataset(
        root, videos={"val": 1}, frames=13, size_wh=(128, 96), people=2, image_format="png",
        progress=False, seed=8,
    )  # fmt: skip
    return human_labels(every_kth(written["val"], 5)), root


def look(model, image, box):
    """H [J, h, w] of a turned box [5], and the map [1, 2, 3] to its crop."""
    center, scale = box_to_center_scale(box[None, :4], model.crop_wh, model.padding)
    matrix = crop_matrices(center, scale, model.crop_wh, box[4])
    pixels = crop(image, matrix, model.crop_wh)
    with torch.no_grad():
        return model.network.heatmaps(normalise(torch.from_numpy(pixels).movedim(-1, 1)))[0], matrix


def paint(model, joints, visible, matrix):
    """Heatmaps [J, h, w], places in heatmap pixels [J, 2], and which are on the map."""
    places = transform_points(joints[None], matrix)[0]
    painted, weight = encode(
        places, visible.astype(float), model.heatmap_hw, model.sigma, rounded=False
    )
    return torch.from_numpy(painted), places / 4, weight > 0


def warp(model, target, source, moved):
    with torch.no_grad():
        return model.network.warp_heatmaps(target[None], source[None], moved[None])[0]


def by_hand(model, video, target, read, own_weight=0.0, neighbours=0, fade=None, consistent=False):
    """Joints [J, 2] and scores [J] of a target, joint by joint."""
    track, own_boxes, joints = target.track, model.support_box == "own", len(model.skeleton)
    unknown = np.full((joints, 2), np.nan), np.full(joints, np.nan)
    image = read(target.number)
    if image is None:
        return unknown
    here, matrix = look(model, image, target.crop_box)
    trust = 1 - own_weight
    faded = 1.0
    if fade is not None and abs(target.number - int(track.numbers[target.labels[0]])) > fade:
        faded = fade / abs(target.number - int(track.numbers[target.labels[0]]))
    trust *= faded

    labels = []  # weight, warped, H there, place in heatmap pixels, usable
    for label, weight in zip(target.labels, target.weights, strict=True):
        image = read(int(track.numbers[label]))
        if image is None:
            continue
        box = track.crop_box[label] if own_boxes else target.crop_box
        there, to_crop = look(model, image, box)
        keypoints = track.keypoints[label]
        painted, place, usable = paint(model, keypoints[:, :2], keypoints[:, 2] > 0, to_crop)
        labels.append((weight, warp(model, here, there, painted), there, place, usable))
    opinions = [here]
    for number in range(target.number - neighbours, target.number + neighbours + 1):
        inside = video.first_frame <= number <= video.last_frame
        known = track.before(number) is not None or track.after(number) is not None
        if number == target.number or not inside or not known or not own_weight:
            continue
        if read(number) is not None:
            box = track.interpolated_box(number) if own_boxes else target.crop_box
            there, _ = look(model, read(number), box)
            opinions.append(warp(model, here, there, there))
    beside = torch.stack(opinions).mean(0)

    mean = torch.zeros_like(here)
    total = [sum(w for w, _, _, _, usable in labels if usable[j]) for j in range(joints)]
    for j in range(joints):
        mean[j] = (1 - trust) * beside[j]
        for weight, warped, _, _, usable in labels:
            if usable[j]:
                mean[j] += trust * weight / total[j] * warped[j]
    places, heights = decode(mean, model.refinement, model.sigma)
    full = np.concatenate([matrix[0], [[0, 0, 1]]])
    corners = np.concatenate([places.double().numpy() * 4, np.ones((joints, 1))], 1)
    found = np.linalg.solve(full, corners.T)[:2].T
    scores = heights.double().numpy()
    known = np.array(total) > 0
    if consistent and known.any():
        painted, _, _ = paint(model, found, known, matrix)
        ways_back = [warp(model, there, here, painted) for _, _, there, _, _ in labels]
        arrived = [decode(back, model.refinement, model.sigma) for back in ways_back]
        for j in range(joints):
            near = 0.0
            for (weight, _, _, place, usable), (back, height) in zip(labels, arrived, strict=True):
                if usable[j]:
                    d = np.hypot(*(back[j].double().numpy() - place[j]))
                    factor = np.exp(-(d**2) / (2 * (2 * model.sigma) ** 2))
                    near += weight / total[j] * factor * float(height[j] > 0)
            scores[j] *= near**faded
    return np.where(known[:, None], found, np.nan), np.where(known, scores, np.nan)


@pytest.mark.parametrize(
    ("support_box", "turned", "missing", "options"),
    [
        ("own", True, (), {"own_weight": 0.4, "neighbours": 2, "fade": 1, "consistent": True}),
        ("own", True, (5, 7), {"own_weight": 0.4, "neighbours": 2, "fade": 1, "consistent": True}),
        ("key", False, (0, 3), {"own_weight": 0.7, "neighbours": 1, "consistent": True}),
        ("key", True, (), {"fade": 2}),
        ("own", False, (), {"consistent": True}),
        ("own", False, (), {"own_weight": 1.0, "neighbours": 1, "consistent": True}),
        ("own", True, (0, 5, 10), {"own_weight": 0.5}),
    ],
)
def test_every_opinion_by_hand(clip, support_box, turned, missing, options):
    labels, root = clip
    upright = reference_pose(labels.people.keypoints) if turned else None
    model = random_model(upright=upright, support_box=support_box, sigma=2.0)
    source = Holes(root, dataset=labels)
    source.missing_numbers = frozenset(missing)
    video = labels.videos[0]
    (of_video,) = labels_of(labels, upright)
    targets = targets_of(of_video, video, sources="both", box="interpolated")
    assert turned == any(target.crop_box[4] != 0 for target in targets)
    done = []
    predictor = PosePredictor(model, device="cpu", batch_size=5)
    poses = Warp(predictor, **options)(video, targets, source, done.append)
    assert sum(done) == len(targets) > 15
    compared = 0
    for row, target in enumerate(targets):
        joints, scores = by_hand(
            model, video, target, lambda number: source.read(video, number), **options
        )
        np.testing.assert_allclose(poses.joints[row], joints, atol=2e-3)
        np.testing.assert_allclose(poses.scores[row], scores, rtol=2e-3, atol=1e-7)
        compared += int(np.isfinite(scores).sum())
        nothing = target.number in missing or {*track_numbers(target)} <= {*missing}
        assert np.isnan(scores).all() if nothing else np.isfinite(scores).any()
    assert compared > 100 or set(missing) >= {0, 5, 10}
    if options.get("own_weight") == 1:
        assert np.nanmax(poses.scores) > 1e-3  # the labels have no share, and still they check


def track_numbers(target):
    return target.track.numbers[list(target.labels)].tolist()


# ---- heads and networks that one knows ----

BODY = np.array([[1.0, -10], [-6, -2], [5, -3], [-1, 12]])
FOUR = Skeleton("four", ("nose", "left_hand", "right_hand", "tail"))
NINE = Video("v", 9, 0, "%06d.png")


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    """Nine frames of one grey value each, ten times their number."""
    root = tmp_path_factory.mktemp("greys")
    (root / "v").mkdir()
    for number in range(9):
        image = np.full((150, 200, 3), 10 * number, np.uint8)
        cv2.imwrite(str(root / "v" / f"{number:06d}.png"), image)
    return root


def placed(degrees, at, size=2.0):
    """BODY as it lies when it has to be turned by so many degrees to stand upright."""
    turned = (BODY[:, 0] + 1j * BODY[:, 1]) * size * np.exp(1j * np.deg2rad(degrees))
    return np.stack([turned.real, turned.imag], 1) + at


def dataset(poses, boxes=None):
    """Labels {frame: [4, 2]} of one person."""
    frames = Frames.make((NINE,), np.zeros(len(poses)), sorted(poses), size_wh=(200, 150))
    keypoints = np.stack([np.c_[poses[n], np.full(4, 2.0)] for n in sorted(poses)])
    if boxes is None:
        low, high = keypoints[:, :, :2].min(1), keypoints[:, :, :2].max(1)
        boxes = np.concatenate([low - 5, high - low + 11], 1)
    people = People.make(range(len(poses)), keypoints, boxes, track_id=np.ones(len(poses)))
    return PoseDataset(FOUR, (NINE,), frames, people)


def identity(**options):
    """A network with a head that moves nothing."""
    torch.manual_seed(1)
    config = replace(SMALL, joints=4)
    options = {"crop_wh": (64, 96), "sigma": 1.5, "refinement": "dark", **options}
    return PoseModel(PoseWarper(config).eval(), config, FOUR, **options)


def spread(model_or_predictor, data, root, **options):
    """Targets and their poses."""
    predictor = model_or_predictor
    if isinstance(predictor, PoseModel):
        predictor = PosePredictor(predictor, device="cpu")
    (labels,) = labels_of(data, predictor.model.upright)
    targets = targets_of(labels, NINE, sources="both", box="interpolated")
    source = FrameSource(root, dataset=data)
    return targets, Warp(predictor, **options)(NINE, targets, source, lambda _: None)


REFERENCE = tuple(map(tuple, BODY.tolist()))


def test_labels_go_along_with_boxes_of_their_own(greys):
    """A head that moves nothing leaves joints where they are in the crop: so the pose turns and
    walks with its box."""
    data = dataset({0: placed(150, (50, 60)), 8: placed(-130, (150, 100))})
    targets, poses = spread(identity(upright=REFERENCE, support_box="own"), data, greys)
    assert [target.number for target in targets] == list(range(1, 8))
    first, last = labels_of(data, REFERENCE)[0].tracks[0].crop_box
    for target, joints, scores in zip(targets, poses.joints, poses.scores, strict=True):
        share = target.number / 8
        box = between(first, last, share)
        assert box[4] == pytest.approx(150 + 80 * share)
        pose = placed(box[4], (0, 0))
        pose += box[:2] + box[2:4] / 2 - middle(pose, box[4])
        np.testing.assert_allclose(joints, pose, atol=0.25)
        assert (scores > 0.9).all()


def middle(pose, degrees):
    """Of the extent of a pose, turned upright."""
    turned = (pose[:, 0] + 1j * pose[:, 1]) * np.exp(-1j * np.deg2rad(degrees))
    center = (turned.real.min() + turned.real.max()) / 2
    center += 1j * (turned.imag.min() + turned.imag.max()) / 2
    center *= np.exp(1j * np.deg2rad(degrees))
    return np.array([center.real, center.imag])


def test_labels_outside_the_box_tell_nothing(greys):
    """In the box halfway, of a far walk, there is neither label, unless each has its own."""
    data = dataset({0: placed(0, (30, 40), 1.0), 8: placed(0, (170, 110), 1.0)})
    targets, poses = spread(identity(), data, greys)
    known = np.isfinite(poses.scores)
    near = {target.number: count for target, count in zip(targets, known.sum(1), strict=True)}
    assert near[4] == 0 and near[1] >= 2 and near[7] >= 2
    # In frame 1 the first label's right hand is inside, and no other label: so it stays there.
    np.testing.assert_allclose(poses.joints[0, 2], placed(0, (30, 40), 1.0)[2], atol=0.2)
    _, poses = spread(identity(support_box="own"), data, greys)
    assert np.isfinite(poses.scores).all()
    np.testing.assert_allclose(poses.joints[3], placed(0, (100, 75), 1.0), atol=0.3)


def test_an_exact_way_back_keeps_the_score(greys):
    data = dataset({0: placed(0, (60, 60)), 8: placed(0, (60, 60))})
    for options in ({}, {"support_box": "own", "upright": REFERENCE}):
        _, plain = spread(identity(**options), data, greys)
        _, checked = spread(identity(**options), data, greys, consistent=True)
        np.testing.assert_array_equal(checked.joints, plain.joints)
        assert (checked.scores <= plain.scores).all()
        np.testing.assert_allclose(checked.scores, plain.scores, rtol=2e-3)
        assert (plain.scores > 0.9).all()


class Drifting(PosePredictor):
    """H is flat, a thousandth of the frame's number; things move by so many heatmap pixels to the
    right per frame, or, ``astray``, per frame of distance whichever way time goes."""

    drift = 1
    astray = False

    def heatmaps(self, crops):
        number = (crops[:, 0, 48, 32].double() / 10).round()
        width, height = self.model.crop_wh
        flat = torch.ones(len(crops), len(FOUR), height // 4, width // 4)
        return flat * number[:, None, None, None] / 1000

    def warp(self, target, source, moved=None):
        moved = source if moved is None else moved
        result = torch.zeros_like(moved)
        frames = ((target - source).mean((1, 2, 3)) * 1000).round().int().tolist()
        for row, between_them in enumerate(frames):
            shift = self.drift * (abs(between_them) if self.astray else between_them)
            width = moved.shape[-1]
            for x in range(width):
                if 0 <= x + shift < width:
                    result[row, ..., x + shift] = moved[row, ..., x]
        return result


def drifting(**attributes):
    """With crops that show images pixel by pixel, and maxima at whole heatmap pixels."""
    model = identity(padding=1.0)
    predictor = Drifting(model, device="cpu", refinement="none")
    for name, value in attributes.items():
        setattr(predictor, name, value)
    return predictor


BOX = np.array([50, 20, 65, 97.0])  # of which training leaves away one pixel: the size of the crop
ON_GRID = np.array([[3, 4], [5, 9], [2, 14], [4, 20.0]])  # heatmap pixels in the box


def in_image(heatmap_pixels):
    return heatmap_pixels * 4 + BOX[:2]


def drifted(frame, drift=1):
    return in_image(ON_GRID + np.array([drift * frame, 0]))


def on_grid(numbers, drift=1):
    return dataset({n: drifted(n, drift) for n in numbers}, np.tile(BOX, (len(numbers), 1)))


def test_labels_move_as_the_head_says(greys):
    targets, poses = spread(drifting(), on_grid([0, 8]), greys, consistent=True, rounded=True)
    for target, joints in zip(targets, poses.joints, strict=True):
        np.testing.assert_allclose(joints, drifted(target.number), atol=1e-4)
    np.testing.assert_allclose(poses.scores, 1, rtol=1e-6)  # the way back is exact


def test_a_way_back_that_misses_lowers_the_score(greys):
    """Two pixels off per frame of distance, as both ways lead to the right."""
    data = on_grid([0])
    astray = drifting(astray=True)
    targets, plain = spread(astray, data, greys, rounded=True)
    targets, poses = spread(astray, data, greys, consistent=True, rounded=True)
    np.testing.assert_allclose(plain.scores, 1, rtol=1e-6)
    for target, joints, scores in zip(targets, poses.joints, poses.scores, strict=True):
        np.testing.assert_allclose(joints, drifted(target.number), atol=1e-4)
        if target.number <= 4:  # further on it leaves the map
            off = 2 * target.number
            np.testing.assert_allclose(scores, np.exp(-(off**2) / (2 * 3.0**2)), rtol=1e-5)
    # Labels fade: the score is trusted less to tell, and its height is a mean with the flat map.
    _, faded = spread(astray, data, greys, consistent=True, rounded=True, fade=2)
    for number, share in ((1, 1.0), (2, 1.0), (3, 2 / 3), (4, 0.5)):
        height = share + (1 - share) * number / 1000
        factor = np.exp(-((2 * number) ** 2) / (2 * 3.0**2)) ** share
        np.testing.assert_allclose(faded.scores[number - 1], height * factor, rtol=1e-5)
    np.testing.assert_allclose(faded.joints, plain.joints, atol=1e-4)


def test_two_labels_check_by_their_shares(greys):
    """One label, the farther one, lies four pixels from where the other one says."""
    wrong = dataset({0: drifted(0), 8: drifted(4)}, np.tile(BOX, (2, 1)))
    targets, poses = spread(drifting(), wrong, greys, consistent=True, rounded=True)
    # In frame 2 the first label says pixel 2, the last one pixel -2, with a quarter of the weight.
    assert targets[1].number == 2
    np.testing.assert_allclose(poses.joints[1], drifted(2), atol=1e-4)
    other = np.exp(-(4**2) / (2 * 1.5**2))  # of the last label's Gaussian there
    height = 0.75 + 0.25 * other * (np.array([1, 1, 1, 1]))
    factor = 0.75 + 0.25 * np.exp(-(4**2) / (2 * 3.0**2))
    np.testing.assert_allclose(poses.scores[1], height * factor, rtol=1e-4)


def test_what_does_not_arrive_has_no_score(greys):
    """Back from column 10 it goes by ten columns more, and is lost; that a lost one is at (0, 0),
    where a joint was, does not count."""
    corner = in_image(np.array([[0, 0], [0, 1], [0, 9], [0, 20.0]]))
    data = dataset({0: corner}, BOX[None])
    targets, poses = spread(
        drifting(drift=5, astray=True), data, greys, consistent=True, rounded=True
    )
    assert targets[1].number == 2
    np.testing.assert_allclose(poses.joints[1], np.add(corner, [40, 0]), atol=1e-4)
    np.testing.assert_array_equal(poses.scores[1], 0)


# ---- neighbours ----


def neighbours_of(model, number, data, **changes):
    warp = Warp(PosePredictor(model, device="cpu"), own_weight=0.5, neighbours=2)
    (labels,) = labels_of(data, model.upright)
    targets = targets_of(labels, NINE, sources="both", box="interpolated")
    (target,) = (t for t in targets if t.number == number)
    target = replace(target, **changes)
    return target, warp._neighbour_crops(NINE, target)


def test_which_neighbours_take_part(greys):
    data = dataset({2: placed(0, (50, 60)), 6: placed(90, (90, 60))})
    own, key = (identity(upright=REFERENCE, support_box=box) for box in ("own", "key"))
    for number, expected in ((4, [2, 3, 5, 6]), (1, [0, 2, 3]), (8, [6, 7])):
        target, crops = neighbours_of(own, number, data)
        assert sorted(wanted.number for wanted in crops) == expected
        for wanted in crops:
            np.testing.assert_allclose(wanted.box, target.track.interpolated_box(wanted.number))
            assert wanted.key == (2 if wanted.number <= 4 else 6)
        target, crops = neighbours_of(key, number, data)
        assert {wanted.box for wanted in crops} == {tuple(target.crop_box.tolist())}
    # A box that was corrected holds for the frames around.
    moved = np.array([10, 20, 30, 40, 50.0])
    _, crops = neighbours_of(own, 8, data, crop_box=moved)
    assert [wanted.box for wanted in crops] == [tuple(moved.tolist())] * 2


def test_neighbours_end_where_the_person_is_absent():
    data = dataset({0: placed(0, (50, 60)), 4: placed(0, (50, 60)), 8: placed(0, (50, 60))})
    data = replace(data, people=data.people[np.array([0, 2])])  # frame 4 is labelled, and empty
    own = identity(support_box="own")
    for number, expected in ((3, {1, 2}), (5, {6, 7}), (2, {0, 1, 3}), (6, {5, 7, 8})):
        _, crops = neighbours_of(own, number, data)
        assert {wanted.number for wanted in crops} == expected


def test_options_reach_the_estimator(clip):
    labels, root = clip
    model = random_model(upright=reference_pose(labels.people.keypoints), support_box="own")
    predictor = PosePredictor(model, device="cpu")
    options = PropagationOptions(
        sources="both", own_weight=0.4, neighbours=1, consistent=True, fade=3, rounded=True
    )
    estimate = make_propagator(options, predictor, False).estimate
    assert estimate == estimate and isinstance(estimate, Warp)
    assert vars(estimate) == {
        "predictor": predictor, "own_weight": 0.4, "neighbours": 1, "consistent": True, "fade": 3,
        "rounded": True,
    }  # fmt: skip
    following = make_propagator(replace(options, follow=True), predictor, False)
    assert vars(following.estimate.estimate) == vars(estimate)
    assert following.estimate.upright == following.upright == model.upright
    everywhere, counts = following(labels, FrameSource(root, dataset=labels))
    assert counts.predicted_frames == 10 and everywhere.frames.labelled.all()
    rows, _ = usable_people(labels)
    np.testing.assert_array_equal(
        everywhere.people.keypoints[~everywhere.people.predicted], labels.people.keypoints
    )
    assert len(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fade": 0}, "fade: expected at least 1 frame, got 0"),
        ({"method": "single", "fade": 3}, "fade: goes with 'warp' only, got 'single'"),
        ({"method": "flow", "consistent": True}, "consistent: goes with 'warp' only"),
        ({"method": "flow", "follow": True}, "follow: goes with .*'single'.*, got 'flow'"),
        ({"neighbours": 2}, "neighbours: they share in own_weight, which is 0"),
        ({"neighbours": -1, "own_weight": 0.5}, "neighbours: expected 0 or more, got -1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        PropagationOptions(**options)
