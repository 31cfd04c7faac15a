"""PoseTrack MOTA: every rule by hand, random scenes against brute force and against motmetrics."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from posetrack_scenes import Frame, Person, mot_frames, person, random_video, slow_mot, write_videos

from posewarper.evaluation import TrackingResult, evaluate_posetrack
from posewarper.evaluation.posetrack_mot import JointTracker, MotCounts

BOTH = ("posetrack17", "posetrack18")


def track(
    folder: Path, truth: list[Frame], predicted: list[Frame], layout: str = "posetrack17"
) -> TrackingResult:
    folders = write_videos(folder, [(truth, predicted)], (layout, layout))
    result = evaluate_posetrack(*folders, tracking=True).tracking
    assert result is not None
    return result


def people(*tracks: int, at: float = 0, **more: object) -> Frame:
    """One person per track id, 1000 pixels apart."""
    return Frame([person(1000 * k + at, 0, track=t, **more) for k, t in enumerate(tracks)])


def counts(result: TrackingResult, joint: int = 0) -> dict[str, int]:
    c = result.counts
    return {
        "objects": int(c.objects[joint]),
        "misses": int(c.misses[joint]),
        "switches": int(c.switches[joint]),
        "false": int(c.false_positives[joint]),
    }


@pytest.mark.parametrize("layout", BOTH)
def test_the_last_labelled_frame_is_not_counted(tmp_path: Path, layout: str) -> None:
    truth = [people(0), people(0), Frame(), people(0), Frame()]
    guess = [people(7, score=1), people(7, score=1), Frame(), people(7, at=500, score=1), Frame()]
    result = track(tmp_path, truth, guess, layout)
    assert counts(result) == {"objects": 2, "misses": 0, "switches": 0, "false": 0}
    assert result.totals() == {"MOTA": 100, "MOTP": 100, "precision": 100, "recall": 100}


@pytest.mark.parametrize("layout", BOTH)
def test_frames_without_predictions_cost_one_miss_and_one_false_positive(
    tmp_path: Path, layout: str
) -> None:
    truth = [people(0, 1, 2), people(0), people(0)]
    result = track(tmp_path, truth, [Frame(), people(3, score=1), Frame()], layout)
    for joint in range(15):
        assert counts(result, joint) == {"objects": 2, "misses": 1, "switches": 0, "false": 1}
    assert result.mota.tolist() == [0.0] * 15


def test_frames_whose_ground_truth_has_no_joints(tmp_path: Path) -> None:
    """A person without a list of points is nobody; one with an empty list is somebody."""
    guess = [people(1, 2, score=1), people(1, score=1), Frame()]
    truth = [Frame([Person(has_points=False)]), people(0), people(0)]
    result = track(tmp_path / "nobody", truth, guess)
    assert counts(result) == {"objects": 2, "misses": 1, "switches": 0, "false": 1}
    truth = [Frame([Person()]), people(0), people(0)]
    result = track(tmp_path / "empty", truth, guess)
    assert counts(result) == {"objects": 1, "misses": 0, "switches": 0, "false": 2}


@pytest.mark.parametrize("layout", BOTH)
def test_people_inside_ignored_regions_are_nobody(tmp_path: Path, layout: str) -> None:
    """All predictions of the first frame lie inside: it has no predictions, hence one miss."""
    region = [[(4000.0, -100.0), (9000.0, -100.0), (9000.0, 900.0), (4000.0, 900.0)]]
    first = people(0, 1)
    first.ignore = region
    guess = [people(5, 6, at=5000, score=1), people(5, score=1), Frame()]
    result = track(tmp_path, [first, people(0), people(0)], guess, layout)
    assert counts(result) == {"objects": 2, "misses": 1, "switches": 0, "false": 1}


def test_a_switch_has_no_time_limit(tmp_path: Path) -> None:
    truth = [people(0)] * 6
    lost = people(9, at=500, score=1)
    guess = [people(1, score=1), lost, lost, lost, people(2, score=1), Frame()]
    result = track(tmp_path, truth, guess)
    assert counts(result) == {"objects": 5, "misses": 3, "switches": 1, "false": 3}
    assert result.mota[0] == pytest.approx(100 * (1 - 7 / 5))
    guess[4] = people(1, score=1)  # the first partner is back
    assert track(tmp_path / "back", truth, guess).counts.switches[0] == 0


def test_old_partners_stay_although_others_are_nearer(tmp_path: Path) -> None:
    near = Frame([person(10, 0, track=1, score=1), person(1, 0, track=2, score=1)])
    result = track(tmp_path, [people(0)] * 3, [people(1, score=1), near, Frame()])
    assert counts(result) == {"objects": 2, "misses": 0, "switches": 0, "false": 1}
    assert result.motp[0] == pytest.approx(100 * (1 - (10 / 30) / 2))


def test_as_many_matches_as_possible_and_then_the_shortest() -> None:
    tracker = JointTracker()
    # The nearest pair (0, 0) would leave one person alone.
    tracker.update([(0, 10, 0, 20, 0.01), (0, 10, 1, 21, 0.4), (1, 11, 0, 20, 0.5)])
    assert (tracker.detections, tracker.switches) == (2, 0)
    assert tracker.distance == pytest.approx(0.9)
    tracker = JointTracker()
    tracker.update([(0, 1, 0, 1, 0.3), (0, 1, 1, 2, 0.2), (1, 2, 0, 1, 0.2), (1, 2, 1, 2, 0.3)])
    assert tracker.distance == pytest.approx(0.4)
    tracker.update([(0, 1, 0, 1, 0.1), (1, 2, 1, 2, 0.1)])  # the other way round
    assert (tracker.detections, tracker.switches) == (4, 2)


def test_numbers_without_objects_or_detections(tmp_path: Path) -> None:
    truth = [people(0, joints=range(13)), people(0)]
    guess = [people(1, joints=range(1, 14), score=1), people(1, score=1)]
    result = track(tmp_path, truth, guess)
    assert result.mota[0] == 0  # one miss
    assert math.isnan(result.precision[0])
    assert result.recall[0] == 0
    assert math.isnan(result.mota[13])
    assert result.precision[13] == 0
    assert math.isnan(result.recall[13])
    assert math.isnan(result.mota[14])
    assert math.isnan(result.precision[14])
    assert result.motp.tolist() == [0.0] + [100.0] * 12 + [0.0] * 2
    assert result.totals() == pytest.approx(
        {"MOTA": 1200 / 13, "MOTP": 80, "precision": 1200 / 13, "recall": 1200 / 13}
    )


def test_one_frame_has_nothing_to_count(tmp_path: Path) -> None:
    result = track(tmp_path, [people(0)], [people(0, score=1)])
    assert result.counts.objects.sum() == 0
    assert all(math.isnan(result.totals()[name]) for name in ("MOTA", "precision", "recall"))


def sum_over_videos(videos: list[tuple[list[Frame], list[Frame]]]) -> list[np.ndarray]:
    return [
        np.sum([slow_mot(mot_frames(*video, joint)) for video in videos], 0) for joint in range(15)
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("layout", BOTH)
def test_equal_to_brute_force(tmp_path: Path, seed: int, layout: str) -> None:
    rng = random.Random(100 + seed)
    videos = [random_video(rng, pointless=layout == "posetrack17") for _ in range(3)]
    folders = write_videos(tmp_path, videos, (layout, layout))
    result = evaluate_posetrack(*folders, tracking=True).tracking
    assert result is not None
    c = result.counts
    expected = np.array(sum_over_videos(videos))
    actual = np.stack([c.objects, c.misses, c.switches, c.false_positives, c.distance], 1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)
    assert c.switches.sum() > 0


def test_equal_to_motmetrics(tmp_path: Path) -> None:
    """The library behind the official numbers. Its table has further rows for each match."""
    import motmetrics

    rng = random.Random(7)
    videos = [random_video(rng, frames=20) for _ in range(3)]
    result = evaluate_posetrack(*write_videos(tmp_path, videos), tracking=True).tracking
    assert result is not None
    for joint in range(15):
        objects = misses = switches = wrong = detections = 0
        distance = 0.0
        for video in videos:
            accumulator = motmetrics.MOTAccumulator(auto_id=True)
            for gt, pred, pairs in mot_frames(*video, joint):
                cost = [[pairs.get((g, p), np.nan) for p in pred] for g in gt]
                accumulator.update(gt, pred, np.array(cost).reshape(len(gt), len(pred)))
            events = accumulator.mot_events
            kinds = events.Type.value_counts()
            misses += kinds.get("MISS", 0)
            switches += kinds.get("SWITCH", 0)
            wrong += kinds.get("FP", 0)
            matched = events[events.Type.isin(["MATCH", "SWITCH"])]
            detections += len(matched)
            distance += matched.D.sum()
        objects = detections + misses
        expected = (
            100 * (1 - (misses + switches + wrong) / objects),
            100 * (1 - distance / detections),
            100 * detections / (detections + wrong),
            100 * detections / objects,
        )
        actual = [
            values[joint] for values in (result.mota, result.motp, result.precision, result.recall)
        ]
        assert actual == pytest.approx(expected, rel=0, abs=1e-9)


def test_counts_add_up() -> None:
    one = MotCounts(*np.arange(4 * 2).reshape(4, 2), np.array([0.5, 1.5]))
    total = one + one
    assert total.objects.tolist() == [0, 2]
    assert total.distance.tolist() == [1, 3]


@pytest.mark.parametrize(
    "frame, message",
    [
        (Frame([person(0, 0, track=None, score=1)]), "a person has no track id"),
        (people(10000, score=1), "a person has a track id of 10000 or more"),
        (people(4, 4, score=1), "track id 4 appears twice"),
    ],
    ids=["missing", "large", "duplicate"],
)
def test_track_ids_of_predictions(tmp_path: Path, frame: Frame, message: str) -> None:
    folders = write_videos(tmp_path, [([people(0)] * 2, [people(0, score=1), frame])])
    where = r"pred.000000_mpii_test\.json: frame 1 \(images/val/000001_mpii_test/000001\.jpg\): "
    with pytest.raises(ValueError, match=where + message):
        evaluate_posetrack(*folders, tracking=True)
    evaluate_posetrack(*folders)  # AP needs no tracks: the system of 2019 gave everybody the same


def test_duplicate_tracks_in_the_ground_truth_are_announced(tmp_path: Path) -> None:
    folders = write_videos(tmp_path, [([people(3, 3)] * 2, [people(0, 1, score=1)] * 2)])
    with pytest.warns(UserWarning, match="track id 3 appears twice"):
        result = evaluate_posetrack(*folders, tracking=True).tracking
    assert result is not None
    assert counts(result)["objects"] == 2
