"""What ``fit`` plans, hides, compares and films."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from drawn_animals import ANIMAL, SIZE_WH, joints_at, write_animals
from numbered_videos import encode, number_in
from random_models import random_model

from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.sparsify import every_kth
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameSource
from posewarper.fitting.comparison import BASELINES, Comparison, comparable, compare, hidden_frames
from posewarper.fitting.film import write_film
from posewarper.fitting.folder import FitFolder, identity
from posewarper.fitting.plan import make_plan
from posewarper.inference import PosePredictor
from posewarper.skeleton import Skeleton

Label = tuple[int, int, int, np.ndarray]  # video, frame, track, [4, 2]


def labels(
    people: Sequence[Label],
    frames: Sequence[int] = (30,),
    skeleton: Skeleton = ANIMAL,
    empty: Sequence[tuple[int, int]] = (),
    names: Sequence[str] = "abcdef",
) -> PoseDataset:
    """Videos of so many frames, of which those with people, and ``empty`` ones, are labelled."""
    videos = tuple(
        Video(names[i], count, 0, "", f"{names[i]}.mp4") for i, count in enumerate(frames)
    )
    rows = [(v, n) for v, count in enumerate(frames) for n in range(count)]
    known = {(v, n) for v, n, *_ in people} | set(empty)
    points = np.full((len(people), len(skeleton), 3), 2.0)
    for row, (*_, joints) in enumerate(people):
        points[row, :, :2] = joints
    ordered = sorted(range(len(people)), key=lambda row: people[row][:2])
    return PoseDataset(
        skeleton,
        videos,
        Frames.make(
            videos, [v for v, _ in rows], [n for _, n in rows], size_wh=(640, 480),
            labelled=[place in known for place in rows],
        ),
        People.make(
            [rows.index(people[row][:2]) for row in ordered], points[ordered],
            boxes_of_joints(points[ordered]), track_id=[people[row][2] for row in ordered],
        ),
        "labels.json",
    )  # fmt: skip


def box(width: float, height: float, x: float = 100, y: float = 100) -> np.ndarray:
    """Joints at the corners of a box."""
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


# --- plan


@pytest.mark.parametrize(
    ("size", "device", "crop_wh"),
    [
        ((110, 200), "cpu", (112, 208)),  # 114 x 208, in steps of 16
        ((200, 110), "cpu", (208, 112)),
        ((150, 150), "cpu", (208, 208)),
        ((150, 150), "cuda", (256, 256)),
        ((20, 200), "cpu", (64, 208)),  # not narrower
        ((30, 40), "cpu", (96, 128)),  # 2.5 x 49 x 1.1 = 135 pixels, and no more
        ((5, 10), "cpu", (64, 96)),  # not smaller
    ],
)
def test_crops_are_as_large_as_people_are_worth(
    size: tuple[float, float], device: str, crop_wh: tuple[int, int]
) -> None:
    found = make_plan(labels([(0, n, 0, box(*size)) for n in (0, 5)]), device, upright=False)
    assert found.crop_wh == crop_wh


def test_smaller_crops_are_trained_on_longer() -> None:
    """As long in seconds, but at most twice as many; a GPU does not mind."""
    small, large = labels([(0, 0, 0, box(5, 10))]), labels([(0, 0, 0, box(150, 150))])

    def samples(dataset: PoseDataset, device: str, effort: float = 1.0) -> tuple[int, int]:
        plan = make_plan(dataset, device, upright=False, effort=effort)
        return plan.pose_samples, plan.warp_samples

    pose, warp = samples(small, "cuda")
    assert samples(large, "cuda") == (pose, warp)
    assert samples(small, "cpu") == (2 * pose, 2 * warp)
    share = 160 * 208 / (208 * 208)
    assert samples(large, "cpu") == (round(share * pose), round(share * warp))
    assert samples(large, "cpu", 0.5) == (round(share * pose / 2), round(share * warp / 2))
    assert samples(small, "cuda", 3) == (3 * pose, 3 * warp)


@pytest.mark.parametrize(
    ("numbers", "reach"),
    [((0, 7, 14, 21), 6), ((0, 1, 2, 3), 2), ((0, 29), 12), ((5,), 11), ((0, 2, 4, 29), 2)],
)
def test_reach_is_the_usual_gap(numbers: tuple[int, ...], reach: int) -> None:
    assert make_plan(labels([(0, n, 0, box(50, 90)) for n in numbers]), "cpu").reach == reach


def test_gaps_are_within_videos() -> None:
    people = [(v, n, 0, box(50, 90)) for v, n in ((0, 0), (0, 5), (1, 20), (1, 25))]
    assert make_plan(labels(people, frames=(30, 30)), "cpu").reach == 4


def test_flips_need_mirror_pairs() -> None:
    people = [(0, 0, 0, box(50, 90))]
    paired = replace(ANIMAL, flip_pairs=((2, 3),))
    assert not make_plan(labels(people), "cpu").flip
    assert make_plan(labels(people, skeleton=paired), "cpu").flip


def test_upright_where_angles_vary() -> None:
    turning = labels([(0, n, 0, joints_at(n, 30)) for n in range(0, 30, 5)])
    standing = labels([(0, n, 0, joints_at(0, 30) + n) for n in range(0, 30, 5)])
    assert make_plan(turning, "cpu").upright and not make_plan(standing, "cpu").upright
    assert not make_plan(turning, "cpu", upright=False).upright
    turned = make_plan(standing, "cpu", upright=True)
    assert turned.upright and turned.crop_wh[1] > turned.crop_wh[0]  # tall, whatever it was


def test_plans_that_cannot_be() -> None:
    one = labels([(0, 0, 0, box(50, 90))])
    for effort in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"effort: expected a number above 0, got {effort}"):
            make_plan(one, "cpu", effort=effort)
    points = one.people.keypoints.copy()
    points[:, 1:, 2] = 0
    alone = replace(one, people=replace(one.people, keypoints=points))
    with pytest.raises(ValueError, match=r"upright: nobody in labels\.json has two"):
        make_plan(alone, "cpu", upright=True)


# --- what is hidden


def hidden_numbers(dataset: PoseDataset, share: float | None) -> list[list[int]]:
    hidden = hidden_frames(dataset, share)
    return [
        dataset.frames.number[hidden & (dataset.frames.video == v)].tolist()
        for v in range(len(dataset.videos))
    ]


@hypothesis.given(
    st.lists(st.sets(st.integers(0, 80), min_size=1, max_size=60), min_size=1, max_size=3),
    st.floats(0, 0.5),
)
def test_hidden_frames(videos: list[set[int]], share: float) -> None:
    people = [(v, n, 0, box(20, 20)) for v, numbers in enumerate(videos) for n in numbers]
    dataset = labels(people, frames=[81] * len(videos))
    try:
        found = hidden_numbers(dataset, share)
    except ValueError as error:
        assert "expected at least three labelled frames" in str(error)
        assert all(round(share * len(n)) == 0 or len(n) < 3 for n in videos)
        return
    for numbers, hidden in zip(videos, found, strict=True):
        ordered = sorted(numbers)
        assert len(hidden) == min(round(share * len(ordered)), max(len(ordered) - 1, 0) // 2)
        places = [ordered.index(number) for number in hidden]
        assert not {0, len(ordered) - 1} & set(places)
        gaps = np.diff(places)
        assert (gaps >= 2).all()  # a label on both sides
        assert not len(gaps) or gaps.max() - gaps.min() <= 1  # evenly


def test_by_default_a_tenth_of_many_labels_is_hidden() -> None:
    many = labels([(0, n, 0, box(20, 20)) for n in range(20)])
    few = labels([(0, n, 0, box(20, 20)) for n in range(19)])
    assert len(hidden_numbers(many, None)[0]) == 2
    assert hidden_numbers(few, None) == [[]] and hidden_numbers(many, 0) == [[]]


def test_by_default_nothing_fails() -> None:
    """Many labels, but too few in each video; or of animals that nobody can tell apart."""
    short = labels([(v, n, 0, box(20, 20)) for v in range(6) for n in range(4)], frames=[30] * 6)
    assert hidden_numbers(short, None) == [[]] * 6
    people = [(0, n, -1, box(20, 20, x=100 + 60 * i)) for n in range(24) for i in range(2)]
    assert hidden_numbers(labels(people), None) == [[]]
    with pytest.raises(ValueError, match="holdout: nobody in the frames to hide has a track id"):
        hidden_frames(labels(people), 0.2)
    with pytest.raises(ValueError, match="holdout: expected at least three labelled frames"):
        hidden_frames(short, 0.1)
    for share in (-0.1, 0.51, math.nan):
        with pytest.raises(ValueError, match=f"holdout: expected a share .* got {share}"):
            hidden_frames(short, share)


# --- how good it is


def by_copying(known: PoseDataset, truth: PoseDataset, folder: Path) -> Comparison | None:
    """Compared without a network."""
    options = {name: BASELINES[name] for name in ("copy", "linear")}
    predictor = PosePredictor(random_model(joints=4, skeleton=ANIMAL), device="cpu")
    return compare(known, truth, FrameSource(folder), options, predictor, progress=False)


def shifted(x: float) -> np.ndarray:
    return box(100, 50, 100 + x)


def test_errors_and_shares_by_hand(tmp_path: Path) -> None:
    """Labels of frames 0 and 10 at x = 0 and 10; hidden ones lie 2 and 6 pixels off a line."""
    known = labels([(0, 0, 4, shifted(0)), (0, 10, 4, shifted(10))])
    truth = labels([(0, 3, 4, shifted(5)), (0, 6, 4, shifted(12))])
    points = truth.people.keypoints.copy()
    points[1, 3, 2] = 0  # not labelled
    found = by_copying(
        known, replace(truth, people=replace(truth.people, keypoints=points)), tmp_path
    )
    assert found is not None and found.methods == ("copy", "linear")
    assert found.sizes.tolist() == [100, 100] and found.skipped == 0
    assert found.numbers.tolist() == [3, 6] and found.distances.tolist() == [3, 4]
    np.testing.assert_allclose(found.errors[0], [[0.05] * 4, [0.02] * 3 + [np.nan]], atol=1e-12)
    np.testing.assert_allclose(found.errors[1], [[0.02] * 4, [0.06] * 3 + [np.nan]], atol=1e-12)
    assert found.pck("linear", 0.05) == 4 / 7 and found.pck("copy", 0.03) == 3 / 7
    assert found.pck("linear", 0.1) == 1 and found.pck("linear", 0.01) == 0
    assert found.median("copy") == pytest.approx(0.05)
    assert found.median("copy", pixels=True) == pytest.approx(5)
    found.save(tmp_path / "comparison.npz")
    kept = Comparison.load(tmp_path / "comparison.npz")
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(kept, name), value)


def test_shares_count_what_lies_at_the_limit_and_what_was_not_found() -> None:
    errors = np.array([[[0.05, 0.02, np.nan], [0.0500001, np.inf, 0.2]]])
    numbers = np.array([3, 4])
    found = Comparison(
        ("copy",), errors, np.ones_like(errors), np.array([100.0, 10.0]), numbers, numbers * 0,
        numbers, 0,
    )  # fmt: skip
    assert found.pck("copy", 0.05) == 2 / 5 and found.pck("copy", 1) == 4 / 5
    assert found.median("copy") == 0.0500001
    assert found.median("copy", pixels=True) == 2  # of 5, 2, 0.5, inf, 2


def test_joints_that_no_label_has_count_as_wrong(tmp_path: Path) -> None:
    known = labels([(0, 0, 0, shifted(0)), (0, 10, 0, shifted(0))])
    points = known.people.keypoints.copy()
    points[:, 2, 2] = 0
    known = replace(known, people=replace(known.people, keypoints=points))
    found = by_copying(known, labels([(0, 4, 0, shifted(0))]), tmp_path)
    assert found is not None
    assert found.errors[0].tolist() == [[0, 0, math.inf, 0]] and found.scores[0, 0, 2] == 0
    assert found.pck("copy", 0.1) == 0.75


def test_tracks_with_other_ids_are_those_that_lie_on_the_labels(tmp_path: Path) -> None:
    """The truth calls 7 who is 0 here, and 0 who is 1."""
    left, right = box(100, 50, 100), box(100, 50, 400)
    known = labels([(0, n, t, pose) for n in (0, 10) for t, pose in ((0, left), (1, right))])
    truth = labels([(0, n, t, pose) for n in (0, 5, 10) for t, pose in ((7, left), (0, right))])
    found = by_copying(known, truth, tmp_path)
    assert found is not None and found.skipped == 0
    assert found.numbers.tolist() == [5, 5] and (found.errors == 0).all()


def test_people_without_a_track_are_left_out(tmp_path: Path) -> None:
    """Of the truth, too: they are several, not one person with the id -1."""
    left, right = box(100, 50, 100), box(100, 50, 400)
    known = labels([(0, n, t, pose) for n in (0, 10) for t, pose in ((0, left), (1, right))])
    truth = labels([(0, n, -1, pose) for n in (0, 5, 10) for pose in (left, right)])
    assert by_copying(known, truth, tmp_path) is None and comparable(known, truth) == 0
    mixed = labels([(0, 5, 0, left), (0, 5, -1, right), (0, 5, 8, right)])
    found = by_copying(known, mixed, tmp_path)
    assert found is not None and found.skipped == 2 and (found.errors == 0).all()
    assert comparable(known, mixed) == 1


def test_videos_are_matched_by_name(tmp_path: Path) -> None:
    first, second = box(100, 50, 100), box(80, 50, 400)
    known = labels(
        [(v, n, 0, pose) for v, pose in enumerate((first, second)) for n in (0, 10)], (30, 30)
    )
    truth = labels([(0, 5, 0, second), (1, 5, 0, first)], (30, 30), names="ba")
    found = by_copying(known, truth, tmp_path)
    assert found is not None and (found.errors == 0).all()
    assert found.videos.tolist() == [0, 1] and found.sizes.tolist() == [100, 80]


def test_the_methods_that_are_compared(tmp_path: Path) -> None:
    """All of them run on real frames, and agree on who is compared."""
    truth = write_animals(tmp_path / "clip", 9)
    model = random_model(joints=4, skeleton=ANIMAL)
    predictor = PosePredictor(model, device="cpu")
    found = compare(
        every_kth(truth, 4), truth, FrameSource(tmp_path), BASELINES, predictor, progress=False
    )
    assert found is not None and found.methods == tuple(BASELINES)
    assert found.errors.shape == found.scores.shape == (5, 6, 4)
    linear = np.interp(range(9), [0, 4, 8], truth.people.keypoints[::4, 0, 0])
    error = abs(linear - truth.people.keypoints[:, 0, 0])[found.numbers]
    assert (found.errors[found.methods.index("linear"), :, 0] * found.sizes >= error - 1e-9).all()
    assert np.isfinite(found.scores).all() and np.isfinite(found.errors).all()


# --- films and folders


def test_films_have_every_frame_of_a_file_with_irregular_times(tmp_path: Path) -> None:
    stamps = np.cumsum([0, 40, 40, 120, 40, 20, 200, 40, 40, 60, 40, 40])
    encode(tmp_path / "a.mp4", stamps)
    dataset = labels([(0, 3, 0, box(30, 20, 5, 5))], frames=(12,))
    frames = replace(dataset.frames, size_wh=np.full((12, 2), (64, 48)))
    dataset = replace(dataset, frames=frames)
    write_film(dataset, 0, FrameSource(tmp_path), tmp_path / "films" / "a.mp4", progress=False)
    with av.open(str(tmp_path / "films" / "a.mp4")) as film:
        stream = film.streams.video[0]
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        rate = float(stream.average_rate)
    assert len(shown) == 12
    assert rate == pytest.approx(1000 * 12 / (stamps[-1] + np.diff(stamps)[-1]), rel=0.15)
    small = [image[:: image.shape[0] // 48, :: image.shape[1] // 64] for image in shown]
    assert [number_in(image) for n, image in enumerate(small) if n != 3] == [
        n for n in range(12) if n != 3
    ]


def test_fps_of_folders_of_images(tmp_path: Path) -> None:
    truth = write_animals(tmp_path / "clip", 4)
    for fps, expected in ((None, 25), (12.5, 12.5)):
        write_film(truth, 0, FrameSource(tmp_path), tmp_path / "f.mp4", fps=fps, progress=False)
        with av.open(str(tmp_path / "f.mp4")) as film:
            stream = film.streams.video[0]
            assert (float(stream.average_rate), stream.frames) == (expected, 4)
            assert stream.width % SIZE_WH[0] == 0 and stream.width >= 640


def test_identity_changes_with_content(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    file, folder = tmp_path / "labels.csv", tmp_path / "images"
    file.write_text("a")
    first = identity([file, folder])
    assert identity([file, folder]) == first and set(first) == {str(file), str(folder)}
    file.write_text("b")
    (folder / "1.png").write_bytes(b"")
    second = identity([file, folder])
    assert all(first[name] != second[name] for name in first)


def test_every_video_has_a_film_of_its_own(tmp_path: Path) -> None:
    folder = FitFolder(tmp_path / "fit", {}, restart=False)
    names = ["a", "b/a", "b-a", "b/c/a"]
    films = [folder.overlay(Video(name, 3, 0, "", f"{name}.mp4")) for name in names]
    assert len(set(films)) == 4
    assert films[1] == tmp_path / "fit" / "overlays" / "b" / "a.mp4"
