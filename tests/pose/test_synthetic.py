"""Synthetic videos: the same seed gives the same bits, and the labels agree with the pictures."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from posewarper.data.synthetic import (
    Difficulty,
    SyntheticVideo,
    generate_video,
)
from posewarper.data.synthetic_figures import (
    FIRST_OBJECT_ID,
    HEAD_PART,
    IDS_PER_PERSON,
    OWN_PARTS,
    TORSO,
    Canvas,
    capsules,
)
from posewarper.data.synthetic_motion import JOINTS, Motion
from posewarper.data.synthetic_scene import Thing
from posewarper.skeleton import POSETRACK

# One person in full view, nothing in the way, a still camera: what the simple checks need.
PLAIN = Difficulty(
    person_height=(0.5, 0.7), blur=0, defocus=0, occluders=0, pan=0, noise=0, flicker=0, leave=0
)  # fmt: skip
NOSE, HEAD_BOTTOM, HEAD_TOP = 0, 1, 2


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    return generate_video(5, frames=40, people=2)


@pytest.fixture(scope="module")
def videos() -> list[SyntheticVideo]:
    return [generate_video(seed, frames=30, people=3) for seed in range(6)]


def hidden_by(video: SyntheticVideo, frame: int, thing: Thing) -> np.ndarray:
    """Joints of person 0 that get hidden when a thing is put into the scene, [17]."""
    before = video.keypoints[frame, 0, :, 2]
    video.scene.things.append(thing)
    try:
        after = video.scene.ground_truth()[0][frame, 0, :, 2]
    finally:
        video.scene.things.remove(thing)
    assert ((after == before) | ((before == 2) & (after == 1))).all()
    return before != after


def test_the_seed_decides_every_bit() -> None:
    first = generate_video(3, frames=12, size_wh=(160, 120))
    cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        second = generate_video(3, frames=12, size_wh=(160, 120))
        backwards = [second.frame(index) for index in reversed(range(12))][::-1]
    finally:
        cv2.setNumThreads(cv2_threads)
    for a, b in zip(first.frames(), backwards, strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("keypoints", "boxes", "head_boxes", "present", "blurred", "defocused"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    other = generate_video(4, frames=12, size_wh=(160, 120))
    assert not np.array_equal(other.keypoints, first.keypoints)
    assert not np.array_equal(other.frame(0), first.frame(0))


def test_another_background_leaves_the_people_as_they_are() -> None:
    a = generate_video(3, frames=6, difficulty=PLAIN)
    b = generate_video(3, frames=6, difficulty=replace(PLAIN, contrast=0.1, noise=8))
    np.testing.assert_array_equal(a.keypoints, b.keypoints)
    assert not np.array_equal(a.frame(0), b.frame(0))


def test_shapes_types_and_ranges(video: SyntheticVideo) -> None:
    assert len(video) == 40
    assert video.keypoints.shape == (40, 2, JOINTS, 3)
    assert video.boxes.shape == video.head_boxes.shape == (40, 2, 4)
    assert video.present.shape == (40, 2)
    assert np.isfinite(video.keypoints).all()
    assert set(np.unique(video.keypoints[..., 2])) <= {0, 1, 2}
    image = video.frame(0)
    assert image.shape == (240, 320, 3)
    assert image.dtype == np.uint8
    assert sum(1 for _ in video.frames()) == 40
    with pytest.raises(IndexError, match="expected 0 to 39, got 40"):
        video.frame(40)


def test_visible_joints_lie_on_their_own_limbs(videos: list[SyntheticVideo]) -> None:
    """The ids are painted by the same polygons as the colours: see the next test."""
    on_limb, total = 0, 0
    for video in videos:
        for frame in range(0, len(video), 5):
            ids = video.scene.part_ids(frame).astype(int)
            for person in range(video.keypoints.shape[1]):
                x, y, v = video.keypoints[frame, person].T
                for joint in np.flatnonzero(v == 2):
                    part = ids[round(y[joint]), round(x[joint])] - 1 - person * IDS_PER_PERSON
                    own = 0 <= part < IDS_PER_PERSON and OWN_PARTS[joint, part]
                    on_limb += own
                    total += 1
    # A joint counts as seen when part of the flesh around it is, so a few centres are covered.
    assert total > 500
    assert on_limb / total > 0.9


def test_the_picture_shows_what_the_ids_say() -> None:
    """Where a person is repainted from black to white, exactly the pixels of its ids change."""
    video = generate_video(8, frames=3, people=1, difficulty=PLAIN)
    scene = video.scene
    pictures = []
    for grey in (0.0, 255.0):
        colour = (grey, grey, grey)
        scene._looks[0] = replace(
            scene._looks[0],
            part_colours=np.full_like(scene._looks[0].part_colours, grey),
            shirt=colour,
            print_colour=colour,
            skin=colour,
            hair=colour,
            backpack=None,
        )
        pictures.append(scene.render(1).astype(int))
    changed = np.abs(pictures[1] - pictures[0]).max(2) > 12
    ids = scene.part_ids(1)
    person = ids > 0
    near = cv2.dilate(person.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert person.sum() > 1500
    assert not (changed & ~near).any()
    inner = cv2.erode(person.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert changed[inner].mean() > 0.97
    # And the head is where the head joints are.
    rows, columns = np.nonzero(np.isin(ids, [1 + HEAD_PART]))
    x, y = video.keypoints[1, 0, [HEAD_BOTTOM, HEAD_TOP], :2].mean(0)
    assert abs(columns.mean() - x) < 4
    assert abs(rows.mean() - y) < 4
    assert (ids == 1 + TORSO).sum() > 200


def test_a_thing_hides_the_joints_behind_it() -> None:
    video = generate_video(11, frames=3, people=1, difficulty=PLAIN)
    camera, view = video.scene.camera, video.scene.camera.view(1.0)
    z = 1.0

    def thing(x: float, y: float, half_width: float, half_height: float, z: float) -> Thing:
        """A board around a point of the image, sizes in pixels."""
        metres = z / camera.focal
        spot = (np.array((x, y)) - camera.principal) * metres
        ground, _ = camera.project(np.array([[spot[0], 0.0, z]]), view)
        height = (ground[0, 1] - y) * metres
        half = (half_width * metres, half_height * metres)
        return Thing((spot[0], height, z), half, 0.0, (9.0,) * 3, (9.0,) * 3, 0, FIRST_OBJECT_ID)

    joints = video.keypoints[1, 0, :, :2]
    assert (video.keypoints[1, 0, :, 2] > 0).all()
    seen = video.keypoints[1, 0, :, 2] == 2
    # A board over the lower half hides what is well inside of it and nothing that is well outside.
    middle = float(np.median(joints[:, 1]))
    board = thing(160.0, middle + 300, 400.0, 300.0, z)
    hidden = hidden_by(video, 1, board)
    np.testing.assert_array_equal(
        hidden[joints[:, 1] > middle + 8], seen[joints[:, 1] > middle + 8]
    )
    assert not hidden[joints[:, 1] < middle - 8].any()
    # The same board behind the person hides nothing.
    behind = replace(board, centre=(*board.centre[:2], 90.0), half_size=(90.0, 90.0))
    assert not hidden_by(video, 1, behind).any()
    # A small board over one joint hides that one, not those far from it.
    joint = int(np.flatnonzero(seen)[np.argmax(joints[seen, 1])])
    hidden = hidden_by(video, 1, thing(*joints[joint], 8.0, 8.0, z))
    assert hidden[joint]
    assert not hidden[np.abs(joints - joints[joint]).max(1) > 16].any()


def test_far_sides_of_heads_are_hidden() -> None:
    both = {1: 0, 2: 0}
    for seed in range(8):
        video = generate_video(seed, frames=20, people=1, difficulty=PLAIN)
        posture = video.scene._motions[0].at(np.arange(20.0))
        looking = posture.head_axes[:, 0, 2]  # towards Z is away from the camera
        nose = video.keypoints[:, 0, NOSE, 2]
        assert (nose[looking > 0.6] == 1).all()
        seen = (looking < -0.6) & (nose == 2)
        # An own hand may be in front of the face, but not often.
        assert seen.sum() >= 0.6 * (looking < -0.6).sum()
        both[1] += int((looking > 0.6).sum())
        both[2] += int(seen.sum())
    assert min(both.values()) > 5


def test_left_is_on_the_left() -> None:
    """Seen from the front, the left limbs are in the right half of the picture."""
    right_way = 0
    for seed in range(6):
        video = generate_video(seed, frames=20, people=1, difficulty=PLAIN)
        facing = video.scene._motions[0].at(np.arange(20.0)).torso_forward[:, 2]
        x = video.keypoints[:, 0, :, 0]
        for pair in ("shoulder", "hip"):
            left, right = (POSETRACK.index(f"{side}_{pair}") for side in ("left", "right"))
            difference = x[:, left] - x[:, right]
            assert (difference[facing < -0.6] > 0).all()
            assert (difference[facing > 0.6] < 0).all()
        right_way += int((np.abs(facing) > 0.6).sum())
    assert right_way > 20


def test_boxes_hold_the_joints_and_stay_in_the_image(videos: list[SyntheticVideo]) -> None:
    for video in videos:
        width, height = video.size_wh
        assert np.isnan(video.boxes[~video.present]).all()
        assert np.isnan(video.head_boxes[~video.present]).all()
        for frame, person in np.argwhere(video.present):
            x, y, w, h = video.boxes[frame, person]
            assert x >= 0 and y >= 0 and x + w <= width - 1 and y + h <= height - 1
            joints = video.keypoints[frame, person]
            joints = joints[joints[:, 2] > 0, :2]
            assert (joints >= (x, y)).all() and (joints <= (x + w, y + h)).all()
            extent = np.ptp(joints, axis=0)
            assert w <= 1.3 * extent[0] + 1e-6 and h <= 1.3 * extent[1] + 1e-6


def test_head_sizes_are_those_of_heads(videos: list[SyntheticVideo]) -> None:
    """PoseTrack's head size, 0.6 of the diagonal, is about the length of a head."""
    for video in videos:
        boxes = video.head_boxes[video.present]
        ends = video.keypoints[video.present][:, [HEAD_BOTTOM, HEAD_TOP], :2]
        length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        size = 0.6 * np.linalg.norm(boxes[:, 2:] - boxes[:, :2], axis=1)
        assert (size > 0.6 * length).all() and (size < 1.6 * length + 1).all()
        for index in range(2):
            assert (ends[:, index] >= boxes[:, :2] - 1e-6).all()
            assert (ends[:, index] <= boxes[:, 2:] + 1e-6).all()


def test_bodies_keep_their_lengths_and_move_smoothly() -> None:
    for seed in range(5):
        motion = Motion(
            np.random.default_rng(seed), frames=40, fps=25, speed=1.0, near=3, far=5,
            half_view=0.4, start=0.0, leaves=False,
        )  # fmt: skip
        times = np.arange(0, 40, 0.25)
        points = motion.at(times).points
        body = motion.body
        for a, b, length in (
            (5, 7, body.upper_arm), (8, 10, body.forearm), (11, 13, body.thigh),
            (14, 16, body.shin), (1, 2, body.head), (5, 6, None), (11, 12, body.hips),
        ):  # fmt: skip
            found = np.linalg.norm(points[:, a] - points[:, b], axis=1)
            expected = found[0] if length is None else length
            np.testing.assert_allclose(found, expected, rtol=0.01)
        # No hand of a runner is faster than 14 m/s; a quarter of a frame is 0.01 s.
        speed = np.linalg.norm(np.diff(points, axis=0), axis=2) / 0.01
        assert speed.max() < 14
        assert points[:, [15, 16], 1].min() > -0.05  # no foot below the ground
        assert points[:, [15, 16], 1].min(1).max() < 0.6


def test_pictures_of_joints_move_a_little_per_frame(videos: list[SyntheticVideo]) -> None:
    for video in videos:
        near = video.keypoints[..., :2]
        step = np.linalg.norm(np.diff(near, axis=0), axis=-1)[
            video.present[1:] & video.present[:-1]
        ]
        assert step.max() < 0.3 * video.size_wh[1]
        assert 0.2 < np.median(step) < 0.05 * video.size_wh[1]


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def test_flagged_frames_are_blurred_and_the_others_are_not() -> None:
    difficulty = Difficulty(blur=0.25, defocus=0.2, noise=0, flicker=0, occluders=0)
    video = generate_video(21, frames=40, difficulty=difficulty)
    assert video.blurred.sum() == 10
    assert video.defocused.sum() == 8
    assert not (video.blurred & video.defocused).any()
    sharp = ~video.blurred & ~video.defocused
    found = np.array([sharpness(image) for image in video.frames()])
    assert found[video.defocused].max() < found[sharp].min()
    assert np.median(found[video.blurred]) < 0.6 * np.median(found[sharp])
    # What a frame loses its neighbours still show: bad frames come in short runs.
    runs = "".join("x" if bad else "." for bad in ~sharp).split(".")
    assert max(map(len, runs)) <= 3


def test_shutter_zero_blurs_nothing() -> None:
    sharp = generate_video(21, frames=6, difficulty=Difficulty(blur=0.5, defocus=0, shutter=0))
    blurred = generate_video(21, frames=6, difficulty=Difficulty(blur=0.5, defocus=0))
    index = int(np.flatnonzero(blurred.blurred)[0])
    assert sharpness(blurred.frame(index)) < sharpness(sharp.frame(index))
    np.testing.assert_array_equal(sharp.keypoints, blurred.keypoints)


def test_people_leave_and_occlude_each_other() -> None:
    crowd = Difficulty(crowding=1.0, occluders=0, leave=0)
    video = generate_video(2, frames=40, people=4, difficulty=crowd)
    assert 0.1 < video.occluded[video.present].mean() < 0.8
    apart = [
        generate_video(s, frames=60, people=2, difficulty=Difficulty(leave=1)) for s in range(4)
    ]
    assert any((~v.present).any() for v in apart)
    assert all(v.present.any() for v in apart)


def test_labels_as_an_annotator_writes_them(videos: list[SyntheticVideo]) -> None:
    video = videos[0]
    keep, present = video.labels()
    np.testing.assert_array_equal(present, video.present)
    assert not keep[..., [3, 4], :].any()
    others = [joint for joint in range(JOINTS) if joint not in (3, 4)]
    expected = (video.keypoints[..., 2] > 0) & video.present[..., None]
    np.testing.assert_array_equal(keep[:, :, others, 2] > 0, expected[:, :, others])
    drop, _ = video.labels(occluded="drop", ears=True)
    np.testing.assert_array_equal(drop[..., 2] > 0, expected & ~video.occluded)
    assert not drop[drop[..., 2] == 0].any()
    with pytest.raises(ValueError, match="occluded: expected 'keep' or 'drop', got 'all'"):
        video.labels(occluded="all")  # type: ignore[arg-type]


def test_an_empty_scene() -> None:
    video = generate_video(0, frames=2, people=0, size_wh=(64, 48))
    assert video.keypoints.shape == (2, 0, JOINTS, 3)
    assert video.frame(1).shape == (48, 64, 3)


def test_one_frame_and_many_people() -> None:
    video = generate_video(0, frames=1, people=12, size_wh=(200, 160))
    assert video.keypoints.shape == (1, 12, JOINTS, 3)
    assert video.frame(0).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "frames: expected 1 to"),
        ({"size_wh": (320, 8)}, "size_wh: expected 32"),
        ({"people": -1}, "people: expected 0"),
        ({"fps": 0}, "fps: expected 1"),
        ({"seed": -1}, "seed: expected 0"),
    ],
)
def test_arguments_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_video(**{"seed": 0, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blur": 1.5}, "blur: expected 0 to 1, got 1.5"),
        ({"speed": 0}, "speed: expected 0.01 to 10"),
        ({"noise": float("nan")}, "noise: expected 0 to 100, got nan"),
        ({"blur": 0.6, "defocus": 0.6}, "at most 1"),
        ({"person_height": (0.8, 0.4)}, "person_height: expected two shares"),
    ],
)
def test_difficulties_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Difficulty(**arguments)


def test_capsules_are_convex_and_hold_both_circles() -> None:
    start, end = np.array([[5.0, 5.0], [5.0, 5.0]]), np.array([[40.0, 20.0], [6.0, 5.0]])
    radius = np.array([6.0, 8.0]), np.array([3.0, 2.0])  # the second end lies inside the first
    for outline in capsules(start, end, *radius, corners=24):
        corners = outline.astype(np.float32)
        hull = cv2.convexHull(corners)
        assert cv2.contourArea(corners) == pytest.approx(cv2.contourArea(hull), rel=1e-4)
        for centre, size in ((start[0], 3.0), (outline.mean(0), 0.5)):
            distance = cv2.pointPolygonTest(outline.astype(np.float32), centre.tolist(), True)
            assert distance > 0.95 * size


def test_a_canvas_paints_at_the_pixel_centre() -> None:
    ids = np.zeros((9, 9), np.uint16)
    square = np.array([(2.6, 3.6), (5.4, 3.6), (5.4, 5.4), (2.6, 5.4)])
    Canvas(ids=ids).fill(square, (0.0, 0.0, 0.0), 7)
    rows, columns = np.nonzero(ids)
    assert abs(rows.mean() - 4.5) <= 0.5 and abs(columns.mean() - 4.0) <= 0.5
