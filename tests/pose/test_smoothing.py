"""One-euro smoothing: the paper's filter, joints that come and go, labels that stay; and jitter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from posewarper.data.synthetic_video import Difficulty, generate_video
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.inference.smoothing import OneEuro, jitter, smooth
from posewarper.skeleton import Skeleton

ALL = np.ones(3, bool)


def one_euro_of_a_number(times, values, min_cutoff, beta, d_cutoff):
    """The paper's algorithm 1, for one coordinate."""

    def share(step, cutoff):
        return 1 / (1 + 1 / (2 * math.pi * cutoff * step))

    smooth, speed, result = values[0], 0.0, [values[0]]
    for k in range(1, len(values)):
        step = times[k] - times[k - 1]
        a = share(step, d_cutoff)
        speed = a * (values[k] - smooth) / step + (1 - a) * speed
        a = share(step, min_cutoff + beta * abs(speed))
        smooth = a * values[k] + (1 - a) * smooth
        result.append(smooth)
    return np.array(result)


def walk(steps, seed=0, joints=3):
    return 50 + np.cumsum(np.random.default_rng(seed).normal(0, 2, (steps, joints, 2)), 0)


def run(filtered, times, points, valid=None, **options):
    valid = np.ones(points.shape[:2], bool) if valid is None else valid
    return np.array(
        [filtered(0, t, p, v, **options) for t, p, v in zip(times, points, valid, strict=True)]
    )


@pytest.mark.parametrize("settings", [(1.0, 0.0, 1.0), (0.5, 3.0, 1.0), (2.0, 20.0, 0.4)])
def test_the_papers_filter(settings):
    times = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.3, 60))
    points = walk(60)
    points[..., 1] = 7.0  # so that the speed is that of x alone
    found = run(OneEuro(*settings), times, points, length=40.0)
    for joint in range(3):
        expected = 40 * one_euro_of_a_number(times, points[:, joint, 0] / 40, *settings)
        np.testing.assert_allclose(found[:, joint, 0], expected, rtol=1e-12)
    np.testing.assert_array_equal(found[..., 1], 7.0)


def test_direction_size_and_place_do_not_matter():
    times, points = np.arange(40) / 25, walk(40)
    expected = run(OneEuro(), times, points, length=60.0)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    found = run(OneEuro(), times + 100, 3 * points @ turn + [900, -20], length=180.0)
    np.testing.assert_allclose(found, 3 * expected @ turn + [900, -20], rtol=1e-10)
    bodies = run(OneEuro(), times, points), run(OneEuro(), times, 3 * points)  # their own length
    np.testing.assert_allclose(bodies[1], 3 * bodies[0], rtol=1e-12)


def test_rest_is_calmed_and_a_jump_is_followed():
    rng = np.random.default_rng(0)
    points = np.array([[0, 0], [0, 100], [50, 50]]) + rng.normal(0, 1, (200, 3, 2))
    points[100:, 2] += 40  # 40 % of the body in one frame
    found = run(OneEuro(), np.arange(200) / 25, points)
    assert (found[20:100].std(0) < 0.65 * points[20:100].std(0)).all()
    assert np.abs(found[102, 2] - 90).max() < 5
    dull = run(OneEuro(beta=0.0), np.arange(200) / 25, points)
    assert np.abs(dull[102, 2] - 90).min() > 15
    assert (dull[20:100].std(0) < found[20:100].std(0)).all()


def test_a_missing_joint_starts_afresh():
    times, points = np.arange(30) / 25, walk(30)
    valid = np.ones((30, 3), bool)
    valid[10:14, 1] = False
    points[10:14, 1] = np.nan
    found = run(OneEuro(), times, points, valid, length=50.0)
    alone = run(OneEuro(), times[14:], points[14:], length=50.0)
    np.testing.assert_array_equal(found[14:, 1], alone[:, 1])
    np.testing.assert_array_equal(found[14, 1], points[14, 1])
    whole = run(OneEuro(), times, walk(30), length=50.0)
    np.testing.assert_array_equal(found[:, [0, 2]], whole[:, [0, 2]])  # the others do not notice
    assert np.isnan(found[10:14, 1]).all() and np.isfinite(found[valid]).all()


def test_tracks_are_apart_and_can_be_forgotten():
    filtered, points, other = OneEuro(), walk(9), walk(9, 1)
    together = []
    for k in range(9):
        together.append(filtered(4, k / 25, points[k], ALL))
        filtered(7, k / 10, other[k], ALL)
    np.testing.assert_array_equal(np.array(together), run(OneEuro(), np.arange(9) / 25, points))
    filtered.forget(4)
    filtered.forget(99)  # never seen
    np.testing.assert_array_equal(filtered(4, 0.0, points[0], ALL), points[0])


def test_exact_joints_stay_and_are_gone_on_from():
    times, points = np.arange(12) / 25, walk(12)
    filtered = OneEuro()
    for k in range(12):
        exact = np.array([k == 6, False, False])
        found = filtered(0, times[k], points[k], ALL, exact=exact, length=50.0)
        if k == 6:
            np.testing.assert_array_equal(found[0], points[6, 0])
        if k == 7:
            low, high = sorted([points[6, 0, 0], points[7, 0, 0]])
            assert low <= found[0, 0] <= high  # between the label and the new place
    whole = run(OneEuro(), times, points, length=50.0)
    np.testing.assert_array_equal(found[1:], whole[-1, 1:])


def test_what_goes_in_is_not_changed():
    filtered, points = OneEuro(), walk(3)
    expected = run(OneEuro(), np.arange(3) / 25, points)
    for k in range(3):
        kept = points[k].copy()
        found = filtered(0, k / 25, points[k], ALL)
        np.testing.assert_array_equal(points[k], kept)
        np.testing.assert_array_equal(found, expected[k])
        found[:] = -1  # nor does the filter mind what becomes of its results


@pytest.mark.parametrize("joints", [0, 1])
def test_bodies_without_a_length(joints):
    valid = np.arange(3) < joints
    points = np.where(valid[:, None], walk(5), np.nan)
    found = run(OneEuro(), np.arange(5) / 25, points, np.tile(valid, (5, 1)))
    assert np.isfinite(found[:, :joints]).all()
    slow = run(OneEuro(beta=0.0), np.arange(5) / 25, points, np.tile(valid, (5, 1)))
    np.testing.assert_array_equal(found, slow)  # no length, no speed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_cutoff": 0}, "min_cutoff: expected.*got 0"),
        ({"d_cutoff": math.nan}, "d_cutoff"),
        ({"beta": -1}, "beta: expected 0 or more"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        OneEuro(**options)


def test_bad_calls():
    filtered = OneEuro()
    filtered(0, 1.0, np.zeros((3, 2)), ALL)
    for time, points, valid, message in [
        (1.0, np.zeros((3, 2)), ALL, r"time_s: expected more than 1\.0.*got 1\.0"),
        (math.nan, np.zeros((3, 2)), ALL, "time_s"),
        (2.0, np.zeros((3, 3)), ALL, r"expected \[J, 2\]"),
        (2.0, np.zeros((2, 2)), ALL[:2], "expected 3 joints as before, got 2"),
        (2.0, np.full((3, 2), np.nan), ALL, "track 0 are not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            filtered(0, time, points, valid)
    assert filtered(0, 2.0, np.zeros((3, 2)), ALL).max() == 0  # as if nothing had happened


def dataset(tracks, frames=12, videos=1, first_frame=0, scores=0.9):
    """``tracks``: (video, track id, {frame: [J, 2]}); every frame is annotated."""
    listed = tuple(Video(f"v{i}", frames, first_frame) for i in range(videos))
    numbers = np.tile(np.arange(first_frame, first_frame + frames), videos)
    video = np.repeat(np.arange(videos), frames)
    rows, ids, points = [], [], []
    for of_video, track, places in tracks:
        for number, place in places.items():
            rows.append(of_video * frames + number - first_frame)
            ids.append(track)
            points.append(np.concatenate([place, np.full((len(place), 1), 2.0)], 1))
    people = People.make(
        rows, np.array(points), np.tile([0.0, 0, 80, 60], (len(rows), 1)), track_id=ids,
        joint_scores=np.full((len(rows), len(points[0])), scores),
    )  # fmt: skip
    skeleton = Skeleton("some", tuple(f"joint {j}" for j in range(len(points[0]))))
    return PoseDataset(skeleton, listed, Frames.make(listed, video, numbers), people)


def seconds(count=12, fps=25.0):
    return np.arange(count) / fps


def track(points, first=0):
    return {first + k: place for k, place in enumerate(points)}


def test_dataset_by_track_and_video():
    a, b, c = walk(12, 1), walk(12, 2), walk(12, 3)
    data = dataset([(0, 1, track(a, 5)), (0, 2, track(b, 5)), (1, 1, track(c, 5))], 12, 2, 5)
    found = smooth(data, [seconds(), seconds(12, 10.0)])
    places = found.people.keypoints[:, :, :2].reshape(3, 12, 3, 2)
    for k, (points, fps) in enumerate([(a, 25), (b, 25), (c, 10)]):
        np.testing.assert_array_equal(places[k], run(OneEuro(), np.arange(12) / fps, points))
    assert (found.people.keypoints[:, :, 2] == 2).all()
    for name in ("bbox", "joint_scores", "track_id", "annotation_id"):
        np.testing.assert_array_equal(getattr(found.people, name), getattr(data.people, name))
    order = np.arange(len(data.people))[::-1].copy()
    backwards = replace(data, people=data.people[order])
    np.testing.assert_array_equal(
        smooth(backwards, [seconds(), seconds(12, 10.0)]).people.keypoints[::-1],
        found.people.keypoints,
    )


def test_irregular_times():
    points, times = walk(12), np.cumsum(np.random.default_rng(3).uniform(0.01, 0.2, 12))
    found = smooth(dataset([(0, 1, track(points))]), [times])
    np.testing.assert_array_equal(found.people.keypoints[..., :2], run(OneEuro(), times, points))


def test_labels_of_humans_stay_and_feed_the_filter():
    points = walk(12)
    data = dataset([(0, 1, track(points))])
    scores = data.people.joint_scores.copy()
    scores[6] = np.nan
    scores[9, 1] = np.nan
    data = replace(data, people=replace(data.people, joint_scores=scores))
    found = smooth(data, [seconds()]).people.keypoints[..., :2]
    np.testing.assert_array_equal(found[6], points[6])
    np.testing.assert_array_equal(found[9, 1], points[9, 1])
    plain = run(OneEuro(), seconds(), points)
    np.testing.assert_array_equal(found[:6], plain[:6])
    assert (found[7:9] != plain[7:9]).all() and (found[7:9] != points[7:9]).all()
    low, high = np.minimum(points[6], points[7]), np.maximum(points[6], points[7])
    assert (low <= found[7]).all() and (found[7] <= high).all()
    untouched = dataset([(0, 1, track(points))], scores=np.nan)
    np.testing.assert_array_equal(
        smooth(untouched, [seconds()]).people.keypoints, untouched.people.keypoints
    )


def test_people_without_a_track_stay():
    points = walk(12)
    data = dataset([(0, -1, track(points)), (0, -1, track(walk(12, 1)))])
    np.testing.assert_array_equal(smooth(data, [seconds()]).people.keypoints, data.people.keypoints)
    assert jitter(data, [seconds()]).counts.tolist() == [0, 0, 0]


def test_who_comes_back_starts_afresh():
    points = walk(12)
    present = {n: points[n] for n in (0, 1, 2, 6, 7, 8)}
    data = dataset([(0, 1, present), (0, 2, track(walk(12, 1)))])
    found = smooth(data, [seconds()]).people.keypoints[:6, :, :2]
    np.testing.assert_array_equal(found[3:], run(OneEuro(), seconds()[6:9], points[6:9]))
    # A frame that nobody looked at says nothing about who was there.
    labelled = data.frames.labelled.copy()
    labelled[3:6] = False
    unknown = dataset([(0, 1, present)])
    unknown = replace(unknown, frames=replace(unknown.frames, labelled=labelled))
    found = smooth(unknown, [seconds()]).people.keypoints[:, :, :2]
    rows = [0, 1, 2, 6, 7, 8]
    np.testing.assert_array_equal(found, run(OneEuro(), seconds()[rows], points[rows]))


def test_an_unknown_frame_does_not_hide_that_somebody_left():
    points = walk(12)
    data = dataset([(0, 1, {n: points[n] for n in (0, 1, 2, 6, 7)}), (0, 2, track(walk(12, 1)))])
    labelled = data.frames.labelled.copy()
    labelled[3:5] = False
    data = replace(data, frames=replace(data.frames, labelled=labelled))
    found = smooth(data, [seconds()]).people.keypoints[3:5, :, :2]
    np.testing.assert_array_equal(found, run(OneEuro(), seconds()[6:8], points[6:8]))


def test_one_joint_is_measured_by_the_box():
    points = walk(12, joints=1)
    found = smooth(dataset([(0, 1, track(points))]), [seconds()]).people.keypoints[:, :, :2]
    np.testing.assert_array_equal(found, run(OneEuro(), seconds(), points, length=80.0))
    assert (found[1:] != run(OneEuro(), seconds(), points)[1:]).all()


def test_a_joint_that_is_not_visible_starts_afresh():
    points = walk(12)
    data = dataset([(0, 1, track(points))])
    keypoints = data.people.keypoints.copy()
    keypoints[5, 2] = 0
    data = replace(data, people=replace(data.people, keypoints=keypoints))
    found = smooth(data, [seconds()]).people.keypoints
    assert found[5, 2].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(found[6, 2, :2], points[6, 2])
    assert (found[6, :2, :2] != points[6, :2]).all()


@pytest.mark.parametrize("function", [smooth, jitter])
def test_bad_times_and_tracks(function):
    data = dataset([(0, 1, track(walk(12)))], first_frame=0)
    for times, message in [
        ([], "expected one array for each of 1 videos, got 0"),
        ([seconds(11)], "times: 11 for video 'v0' from frame 0, but frame 11 is listed"),
        ([np.zeros(12)], "grow from frame to frame for video 'v0'"),
        ([np.full(12, np.nan)], "grow"),
    ]:
        with pytest.raises(ValueError, match=message):
            function(data, times)
    twice = dataset([(0, 1, track(walk(12))), (0, 1, {4: walk(12)[4]})])
    with pytest.raises(ValueError, match="track id occurs twice in v0/000004"):
        function(twice, [seconds()])


def test_jitter_is_the_second_difference():
    points = walk(12)
    points[:, 0] = [0, 0]
    points[:, 1] = [100, 40]  # the extent is 100 in every frame
    points[:, 2] = np.clip(points[:, 2], 0, 40)
    found = jitter(dataset([(0, 1, track(points))]), [seconds()])
    second = np.linalg.norm(points[2:] - 2 * points[1:-1] + points[:-2], axis=-1) / 100
    np.testing.assert_allclose(found.joints, second.mean(0), atol=1e-15)
    assert found.mean == pytest.approx(second.mean()) and found.counts.tolist() == [10] * 3
    assert found.median == np.median(second)
    double = dataset([(0, 1, track(2 * points))])
    assert jitter(double, [seconds()]).mean == pytest.approx(found.mean)


def test_even_motion_has_no_jitter():
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.2, 12))
    points = walk(1) + times[:, None, None] * np.array([[30.0, -4], [30, -4], [-10, 50]])
    assert jitter(dataset([(0, 1, track(points))]), [times]).mean < 1e-14
    assert jitter(dataset([(0, 1, track(points))]), [seconds()]).mean > 1e-3


def test_jitter_across_gaps_is_not_measured():
    points = walk(12)
    present = {n: points[n] for n in (0, 1, 2, 4, 5, 8, 9, 10)}
    data = dataset([(0, 1, present), (0, 2, {3: points[3]})])
    keypoints = data.people.keypoints.copy()
    keypoints[6, 1, 2] = 0  # frame 9
    data = replace(data, people=replace(data.people, keypoints=keypoints))
    assert jitter(data, [seconds()]).counts.tolist() == [2, 1, 2]
    nothing = jitter(dataset([(0, 1, {0: points[0]})]), [seconds()])
    assert np.isnan([nothing.mean, nothing.median, *nothing.joints]).all()
    assert jitter(data.select(people=np.zeros(0, int)), [seconds()]).counts.sum() == 0


def test_noise_of_known_size():
    """As the documentation says: 3.1 times the noise."""
    rng = np.random.default_rng(0)
    rest = np.array([[0.0, 0], [100, 0], [0, 60]])
    data = dataset([(0, 1, track(rest + rng.normal(0, 0.5, (3000, 3, 2))))], 3000)
    assert jitter(data, [seconds(3000)]).mean == pytest.approx(3.07 * 0.005, rel=0.03)


def test_smoothing_helps_where_the_noise_is_large():
    """On synthetic people, whose joints are off by 3 % of the body."""
    video = generate_video(
        3, frames=75, size_wh=(320, 240), people=2, fps=25, difficulty=Difficulty(leave=0)
    )
    points = video.keypoints[..., :2]  # [T, P, J, 2]
    extents = np.median(np.ptp(points, 2).max(-1), 0)
    noise = np.random.default_rng(0).normal(0, 0.03, points.shape) * extents[:, None, None]
    truth, noisy = (
        dataset([(0, who, track(places[:, who])) for who in range(2)], 75)
        for places in (points, points + noise)
    )
    calm = smooth(noisy, [seconds(75)])

    def error(data):
        off = data.people.keypoints[..., :2] - truth.people.keypoints[..., :2]
        return np.sqrt((off**2).sum(-1).mean())

    assert error(calm) < 0.85 * error(noisy)
    medians = [jitter(data, [seconds(75)]).median for data in (truth, calm, noisy)]
    assert medians[0] < medians[1] < 0.7 * medians[2]
