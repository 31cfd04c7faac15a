"""Joints drawn to where flow carries the label: with an estimator and a flow of known answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.tracks import labels_of, targets_of
from posewarper.inference import PropagationOptions
from posewarper.inference.baselines import Poses
from posewarper.inference.refining import WithFlow
from posewarper.skeleton import Skeleton

THREE = Skeleton("three", ("a", "b", "c"))
VIDEO = Video("v", 13)
BODY = np.array([[0.0, 0, 2], [100, 40, 2], [50, 20, 2]])  # 100 pixels: flow has to be within 5


@dataclass
class Said:
    """Poses [n, 3, 2] that are the label moved by (dx, dy); keeps what it was asked."""

    dx: float
    asked: list = field(default_factory=list)

    def __call__(self, video, targets, source, advance):
        self.asked.append([(t.number, t.labels) for t in targets])
        poses = Poses.unknown(targets)
        for row, target in enumerate(targets):
            poses.joints[row] = target.keypoints[0, :, :2] + (self.dx, 0)
            unlabelled = target.keypoints[0, :, 2] == 0
            poses.joints[row, unlabelled] = np.nan
            poses.scores[row] = 0.25
        advance(len(targets))
        return poses


def targets(first=BODY, last=BODY):
    frames = Frames.make((VIDEO,), [0, 0], [0, 12], size_wh=(400, 400))
    boxes = [[0, 0, 120, 60]] * 2
    people = People.make([0, 1], np.stack([first, last]), boxes, track_id=[7, 7])
    (labels,) = labels_of(PoseDataset(THREE, (VIDEO,), frames, people))
    return targets_of(labels, VIDEO, sources="both", box="interpolated", repredict=True)


@pytest.mark.parametrize(("apart", "moved"), [(4.0, 1.2), (-4.9, -1.47), (5.1, 0.0), (60.0, 0.0)])
def test_flow_counts_where_it_is_near(apart, moved):
    wanted = targets()
    flow = Said(10 + apart)
    poses = WithFlow(Said(10), 0.3, reach=3, flow=flow)(VIDEO, wanted, None, lambda _: None)
    for target, joints in zip(wanted, poses.joints, strict=True):
        near = 0 < target.distance <= 3
        np.testing.assert_allclose(joints[:, 0], BODY[:, 0] + 10 + (moved if near else 0))
        np.testing.assert_array_equal(joints[:, 1], BODY[:, 1])
    assert (poses.scores == 0.25).all()
    # Of the nearest label alone, and only where it is asked.
    assert flow.asked == [[(n, (0,)) for n in (1, 2, 3)] + [(n, (1,)) for n in (9, 10, 11)]]


def test_joints_that_one_of_both_lacks():
    first = BODY.copy()
    first[1] = 0  # flow has nothing to carry in the first half
    wanted = targets(first)
    poses = WithFlow(Said(10), 1.0, flow=Said(12))(VIDEO, wanted, None, lambda _: None)
    row = next(i for i, target in enumerate(wanted) if target.number == 2)
    assert np.isnan(poses.joints[row, 1]).all()
    np.testing.assert_allclose(poses.joints[row, [0, 2], 0], BODY[[0, 2], 0] + 12)


def test_nothing_to_ask():
    wanted = [target for target in targets() if target.distance == 0]
    flow = Said(0)
    WithFlow(Said(10), 0.3, flow=flow)(VIDEO, wanted, None, lambda _: None)
    assert not flow.asked


def test_options():
    with pytest.raises(ValueError, match=r"flow_weight: expected 0 to 1, got 1\.5"):
        PropagationOptions(flow_weight=1.5)
    with pytest.raises(ValueError, match="flow_weight: goes with"):
        PropagationOptions("copy", flow_weight=0.5)
