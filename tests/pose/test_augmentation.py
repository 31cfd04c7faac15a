"""Training sets with pseudo-labels: which frames get them, and that training accepts them."""

from __future__ import annotations

from dataclasses import fields

import jsonargparse
import numpy as np
import pytest
from random_models import random_model

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.dataset import PoseSamples, usable_people
from posewarper.data.sparsify import frames_per_video
from posewarper.data.synthetic import write_dataset
from posewarper.data.tables import People
from posewarper.data.video import FrameSource
from posewarper.inference.augmentation import augment_labels
from posewarper.inference.predictor import PosePredictor
from posewarper.inference.propagation import propagate_labels
from posewarper.models import save_model
from posewarper.prediction import augment

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two videos of ten frames; labelled are the frames 2 and 7."""
    root = tmp_path_factory.mktemp("clips") / "data"
    written = write_dataset(
        root, videos={"train": 2}, frames=10, size_wh=(128, 96), people=2, progress=False, seed=5
    )
    return frames_per_video(written["train"], 2), root


@pytest.fixture(scope="module")
def predictor():
    return PosePredictor(random_model(), device="cpu")


def made(clips, predictor, **options):
    dataset, root = clips
    source = FrameSource(root, dataset=dataset)
    return augment_labels(dataset, source, predictor=predictor, progress=False, **options)


def labelled(dataset, video=0):
    frames = dataset.frames
    return frames.number[frames.labelled & (frames.video == video)].tolist()


def test_frames_near_labels_get_pseudo_labels(clips, predictor):
    dataset, _ = clips
    assert labelled(dataset) == labelled(dataset, 1) == [2, 7]
    near = {1: [1, 2, 3, 6, 7, 8], 2: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 9: list(range(10))}
    for distance, expected in near.items():
        result, counts = made(clips, predictor, distance=distance, threshold=0)
        assert labelled(result) == labelled(result, 1) == expected
        assert counts.predicted_frames == 2 * len(expected) - 4 and counts.labelled_frames == 4
        # none in labelled frames
        human = np.isin(result.frames.number[result.people.frame], [2, 7])
        np.testing.assert_array_equal(result.people.predicted, ~human)
        assert counts.people == (~human).sum()
        for field in fields(People):
            if field.name != "frame":
                np.testing.assert_array_equal(
                    getattr(result.people[human], field.name), getattr(dataset.people, field.name)
                )


def test_only_new_frames_with_labels_are_listed(clips, predictor):
    dataset, root = clips
    listed = dataset.select(frames=dataset.frames.labelled)  # a file of labelled frames only
    result, _ = made((listed, root), predictor, distance=1, threshold=0)
    assert result.frames.number.tolist() == [1, 2, 3, 6, 7, 8] * 2
    assert set(listed.frames.image_id.tolist()) <= set(result.frames.image_id.tolist())


def test_joints_below_the_threshold_are_not_labelled(clips, predictor):
    everything, all_counts = made(clips, predictor, threshold=0)
    scores = everything.people.joint_scores[everything.people.predicted]
    threshold = float(np.nanquantile(scores, 0.7))
    result, counts = made(clips, predictor, threshold=threshold)
    predicted = result.people[result.people.predicted]
    seen = predicted.keypoints[..., 2] > 0
    assert seen.any(1).all()  # people without joints are left out
    assert (predicted.joint_scores[seen] > threshold).all()
    assert not predicted.keypoints[~seen].any() and np.isnan(predicted.joint_scores[~seen]).all()
    assert counts.joints == seen.sum() == (scores > threshold).sum()
    assert all_counts.joints == np.isfinite(scores).sum()
    assert counts.joints + counts.joints_lost == all_counts.joints + all_counts.joints_lost
    assert counts.people == len(predicted) <= all_counts.people
    assert counts.people + counts.people_lost == all_counts.people + all_counts.people_lost
    nothing, counts = made(clips, predictor, threshold=1e9)
    assert not nothing.people.predicted.any() and counts.people_lost == all_counts.people
    assert labelled(nothing) == [2, 7]


def test_pseudo_labels_are_what_propagation_finds(clips, predictor):
    dataset, root = clips
    options = {"sources": "both", "own_weight": 1 / 3, "leaving": "halfway", "distance": 2}
    result, _ = made(clips, predictor, threshold=0, **options)
    source = FrameSource(root, dataset=dataset)
    expected = propagate_labels(dataset, source, predictor=predictor, progress=False, **options)
    for field in fields(People):
        np.testing.assert_array_equal(
            getattr(result.people, field.name), getattr(expected.people, field.name)
        )
    copied, _ = augment_labels(dataset, None, "copy", distance=1, progress=False)
    assert labelled(copied) == [1, 2, 3, 6, 7, 8]


def test_command_writes_a_training_set(clips, predictor, tmp_path, capsys):
    dataset, root = clips
    save_coco(dataset, tmp_path / "sparse.json")
    save_model(predictor.model, tmp_path / "model.pt")
    out = tmp_path / "larger.json"
    arguments = [
        str(tmp_path / "sparse.json"), str(out), f"--model={tmp_path / 'model.pt'}",
        f"--images={root}", "--distance=1", "--threshold=0.0", "--device=cpu", "--progress=false",
    ]  # fmt: skip
    jsonargparse.auto_cli(augment, args=arguments, as_positional=True)
    assert "4 labelled frames -> 8 more" in capsys.readouterr().out
    larger = load_coco(out)
    predicted = larger.people.predicted
    assert predicted.sum() >= 8 and (~predicted).sum() == len(dataset.people)
    rows, boxes = usable_people(larger)
    assert len(rows) == len(larger.people) and (boxes[:, 2:] > 0).all()
    samples = PoseSamples(larger, FrameSource(root), stage="warp", crop_wh=(64, 96), seed=1)
    pseudo = [samples[index] for index in range(len(samples))]
    assert len(pseudo) == len(rows)
    in_crop = sum(bool(sample["weight"].any()) for sample in pseudo)
    assert in_crop == len(rows)  # every box holds labelled joints


def test_bad_options(clips, predictor):
    with pytest.raises(ValueError, match="distance: expected at least 1 frame, got 0"):
        made(clips, predictor, distance=0)
    with pytest.raises(ValueError, match="threshold: expected 0 or more, got -1"):
        made(clips, predictor, threshold=-1)
    with pytest.raises(TypeError, match="repredict"):  # pseudo-labels replace no labels
        made(clips, predictor, repredict=True)
