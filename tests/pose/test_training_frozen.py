"""Stage warp with a frozen backbone: its folded copy, and heatmaps that are kept between epochs."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from posewarper.data.crops import Augmentation, normalise
from posewarper.data.dataset import PoseSamples
from posewarper.data.formats import load_labels
from posewarper.data.video import FrameSource
from posewarper.models import HRNet, load_model, save_model
from posewarper.training import LoopConfig
from posewarper.training.frozen import FrozenBackbone
from posewarper.training.loading import Batch, Seen
from posewarper.training.loop import Training
from tests.pose import training_runs
from tests.pose.training_runs import HEAD, losses, run, weights, write_videos

pytestmark = pytest.mark.usefixtures("one_thread")

NONE = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0)
LABELS = "annotations/posetrack_train.json"
CACHED = {"delta_range": 1, "heatmap_cache_mb": 64}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "set"
    write_videos(folder)
    return folder


@pytest.fixture(scope="module")
def pose(root, tmp_path_factory):
    """A model of stage "pose" whose heatmaps say something."""
    result = run(root, tmp_path_factory.mktemp("runs") / "pose", val=False, loop={"epochs": 1})
    model = load_model(result.best)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.normal_(0, (2 / layer.weight[0].numel()) ** 0.5, generator=random)
            elif isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1, generator=random)
                layer.running_var.uniform_(0.5, 2, generator=random)
    path = result.folder / "loud.pt"
    save_model(model, path)
    return path


@pytest.fixture
def still(monkeypatch):
    """Runs without augmentation."""
    monkeypatch.setattr(training_runs, "Augmentation", lambda **options: NONE)


def batch_of(count, places=(), wanted=()):
    random = torch.Generator().manual_seed(1)
    crops = torch.randint(0, 256, (count, 2, 3, 96, 64), dtype=torch.uint8, generator=random)
    empty = torch.zeros(len(places) or count, 0)
    return Batch(crops, empty, empty, empty, 0, [], places=places, with_crops=wanted)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_copy_gives_the_heatmaps_of_the_network(pose, precision, bound, channels_last):
    backbone = load_model(pose).backbone
    options = LoopConfig(precision=precision, channels_last=channels_last)
    frozen = FrozenBackbone(backbone, torch.device("cpu"), options)
    batch = batch_of(3)
    found = frozen.pairs(batch)
    with torch.no_grad():
        expected = backbone(normalise(batch.crops.flatten(0, 1))).unflatten(0, (3, 2))
    assert found.dtype == torch.float32 and not found.is_inference()
    assert (found - expected).abs().max() <= bound * expected.abs().max()
    assert frozen.pairs(batch_of(0)).shape == (0, *expected.shape[1:])


def test_what_was_seen_is_not_computed_again(pose, monkeypatch):
    frozen = FrozenBackbone(load_model(pose).backbone, torch.device("cpu"), LoopConfig())
    batch = batch_of(3)
    expected = frozen.pairs(batch)
    passes, heatmaps = [], FrozenBackbone.heatmaps

    def watched(self, crops):
        passes.append(len(crops))
        return heatmaps(self, crops)

    monkeypatch.setattr(FrozenBackbone, "heatmaps", watched)
    places = [((7, None), (7, 1)), ((8, None), (8, -1)), ((9, None), (9, 0))]
    seen = Seen(5 * expected[0, 0].nbytes)  # one of six has no room

    def close(found, wanted):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))

    close(frozen.pairs(batch._replace(places=places, with_crops=[True] * 3), seen), expected)
    assert passes == [16] and len(seen) == 5 and (9, 0) not in seen
    # crops of the third sample only, in another order; one of its two is known
    again = Batch(
        batch.crops[2:], *batch[1:4], 0, [],
        places=[places[1], places[2], places[0]], with_crops=[False, True, False],
    )  # fmt: skip
    close(frozen.pairs(again, seen), expected[[1, 2, 0]])
    assert passes == [16, 16]
    known = Batch(batch.crops[:0], *batch[1:4], 0, [], places=places[:2], with_crops=[False] * 2)
    close(frozen.pairs(known, seen), expected[:2])
    assert passes == [16, 16]
    assert frozen.pairs(Batch(batch.crops[:0], *batch[1:4], 0, []), seen).shape[0] == 0


def test_samples_without_crops(root):
    """All else is as with them, and no frame is read."""
    source = FrameSource(root)
    samples = PoseSamples(
        load_labels(root / LABELS), source, stage="warp", crop_wh=(64, 96),
        augmentation=NONE, seed=4,
    )  # fmt: skip
    for index in (0, 5):
        for epoch in (0, 3):
            with_crops = samples.sample(index, epoch)
            decoded = source.decoded
            without = samples.sample(index, epoch, with_crops=False)
            assert source.decoded == decoded
            assert without.keys() == with_crops.keys() - {"crops"}
            for name, value in without.items():
                np.testing.assert_array_equal(value, with_crops[name], err_msg=name)
            assert samples.delta_of(index, epoch) == with_crops["delta"]
    deltas = [samples.delta_of(0, epoch) for epoch in range(20)]
    assert len(set(deltas)) > 2


def test_augmentation_that_changes_nothing(root):
    assert NONE.changes_nothing
    assert replace(NONE, rotation_factor=45.0).changes_nothing  # of probability 0
    for name in ("scale_factor", "flip_probability", "half_body_probability"):
        assert not replace(NONE, **{name: 0.5}).changes_nothing
    assert not replace(NONE, key_damage_probability=0.5).changes_nothing
    assert not replace(NONE, rotation_factor=1.0, rotation_probability=0.5).changes_nothing
    source, labels = FrameSource(root), load_labels(root / LABELS)
    samples = PoseSamples(labels, source, crop_wh=(64, 96), augmentation=NONE)
    plain = PoseSamples(labels, source, crop_wh=(64, 96))
    for epoch in (0, 1):
        assert torch.equal(samples.sample(3, epoch)["crops"], plain.sample(3, 0)["crops"])


@pytest.fixture
def passes(monkeypatch):
    """How many crops went through the backbone together, pass by pass."""
    counts, features = [], HRNet.features

    def counted(self, images):
        counts.append(len(images))
        return features(self, images)

    monkeypatch.setattr(HRNet, "features", counted)
    return counts


@pytest.mark.parametrize("workers", [0, 1])
def test_run_with_kept_heatmaps(root, pose, tmp_path, still, passes, workers):
    """The same as without, up to rounding; every crop is decoded and computed once."""
    options = {"stage": "warp", "init": pose, "loop": {"epochs": 3}}
    plain = run(root, tmp_path / "plain", **options, data={"delta": 1})
    first = -(-sum(passes[: len(passes) // 3]) // 16)
    passes.clear()
    data = {"delta": 1, "heatmap_cache_mb": 64, "workers": workers}
    kept = run(root, tmp_path / "kept", **options, data=data)
    assert set(passes) == {16} and first <= len(passes) <= first + 2  # parts of last chunks
    for one, other in zip(losses(kept), losses(plain), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_resumed_run_with_kept_heatmaps_is_the_same_bit_by_bit(
    root, pose, tmp_path, still, monkeypatch
):
    options = {"stage": "warp", "init": pose, "loop": {"epochs": 3}, "data": CACHED}
    whole = run(root, tmp_path / "whole", **options)
    step, number = Training._step, 0

    def interrupted(self, batches, asked):
        nonlocal number
        number += 1
        if number == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batches, asked)

    monkeypatch.setattr(Training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "parts", **options)
    parts = run(root, tmp_path / "parts", **options)
    assert losses(parts) == losses(whole)
    for name, tensor in weights(whole.final).items():
        assert torch.equal(tensor, weights(parts.final)[name]), name


def test_validation_is_kept_where_training_varies(root, pose, tmp_path, passes):
    loop = {"epochs": 3, "samples_per_epoch": 4, "batch_size": 4}
    run(root, tmp_path, "warp", pose, data=CACHED, loop=loop)
    val = PoseSamples(load_labels(root / LABELS.replace("train", "val")), FrameSource(root))
    assert passes.count(8) == 3  # steps of four pairs each
    assert passes.count(16) == -(-len(val) // 4) == len(passes) - 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data.heatmap_cache_mb: expected augmentation .* or data.val"),
        ({"model": {**HEAD, "freeze_backbone": False}}, "expected model.freeze_backbone true"),
        ({"model": {**HEAD, "backbone_batch_stats": True}}, "model.backbone_batch_stats false"),
        ({"stage": "pose", "init": None}, "data.heatmap_cache_mb: expected stage warp"),
    ],
)
def test_refused(root, pose, tmp_path, options, message):
    options = {"stage": "warp", "init": pose, **options}
    with pytest.raises(ValueError, match=message):
        run(root, tmp_path, **options, data=CACHED, val=False)
