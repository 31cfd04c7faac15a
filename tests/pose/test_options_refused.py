"""An option that would do nothing is refused in one line; the default may always be said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from option_inputs import write_inputs

from posewarper import cli
from posewarper.data.annotations import load_coco, save_coco
from posewarper.inference.propagation import propagate_labels

pytestmark = pytest.mark.usefixtures("one_thread")

PREDICT = "predict {root}/train --model {root}/0.pt --out {out}/x.json --device cpu "
AGGREGATE = "aggregate {root}/train.json {out}/x.json --model {root}/0.pt --images {root}/data "
PROPAGATE = "propagate {root}/sparse-train.json {out}/x.json --images {root}/data "
AUGMENT = "augment {root}/sparse-train.json {out}/x.json --images {root}/data "
TRAIN = "train --data.train {root}/train.json --data.images {root}/data --out {out}/run "
WARP = TRAIN + "--stage warp --init {root}/0.pt "
EVALUATE = "evaluate {root}/train.json {root}/train.json "
SPARSIFY = "sparsify {root}/train.json {out}/x.json "
FOLDER = "convert {root}/data/annotations/train {out}/x.json "

#: The command, the option with a value, and what the message says after its name.
REFUSED = [
    (PREDICT, "--beta 3", "goes with smooth"),
    (PREDICT, "--min_cutoff 3", "goes with smooth"),
    (PREDICT, "--shift_flipped true", "goes with flip_test"),
    (PREDICT, "--sigmas 0.1", "needs a number for nms"),
    (PREDICT + "--boxes frame ", "--lost_below 0.1", "goes with boxes last-pose"),
    (PREDICT + "--boxes frame ", "--detect_every 3", "goes with boxes last-pose"),
    (PREDICT + "--start_box [1,2,30,30] ", "--detect_every 3", "goes with a detector"),
    (PREDICT + "--boxes frame ", "--box_threshold 0.1", "no boxes have scores"),
    (PREDICT + "--start_box [1,2,30,30] ", "--box_threshold 0.1", "no boxes have scores"),
    (PREDICT + "--box_file {root}/train.json ", "--box_threshold 0.1", "are labels"),
    (
        PREDICT + "--box_file {root}/train.json ",
        "--detector ssdlite320_mobilenet_v3_large",
        "goes with a detector",
    ),
    (
        PREDICT + "--start_box [1,2,30,30] ",
        "--detector_weights {root}/0.pt",
        "goes with a detector",
    ),
    (PREDICT + "--mode single ", "--causal true", "goes with mode aggregate"),
    (AGGREGATE, "--shift_flipped true", "goes with flip_test"),
    (AGGREGATE, "--sigmas 0.1", "needs a number for nms"),
    (AGGREGATE, "--box_threshold 0.1", "goes with boxes of a detector"),
    (AGGREGATE, "--neck shoulder_midpoint", "goes with the formats posetrack18"),
    (AGGREGATE, "--dummy_people true", "goes with the formats posetrack18"),
    (AGGREGATE + "--mode single ", "--window paper", "goes with the modes aggregate"),
    (PROPAGATE + "--method flow ", "--rounded true", "goes with 'warp'"),
    (PROPAGATE + "--method copy ", "--box interpolated", "goes with ('warp', 'single')"),
    (PROPAGATE + "--method copy ", "--preset fast", "goes with 'flow'"),
    (AUGMENT + "--model {root}/0.pt ", "--preset fast", "goes with 'flow'"),
    (AUGMENT + "--method linear ", "--flip_test true", "goes with ('warp', 'single')"),
    (TRAIN, "--data.val_images {root}", "goes with data.val"),
    (TRAIN, "--data.delta 1", "expected stage warp"),
    (TRAIN, "--data.delta_range 3", "expected stage warp"),
    (TRAIN, "--model.freeze_backbone false", "expected stage warp"),
    (TRAIN, "--model.backbone_batch_stats true", "expected stage warp"),
    (TRAIN, "--augmentation.key_damage_probability 0.1", "expected stage warp"),
    (
        WARP + "--model.freeze_backbone false ",
        "--model.backbone_batch_stats true",
        "goes with a frozen backbone",
    ),
    (TRAIN, "--optimizer.momentum 0.5", "goes with sgd"),
    (TRAIN, "--schedule.factor 0.5", "goes with schedule.milestones"),
    (EVALUATE + "--metric pck ", "--tracking true", "goes with metric posetrack"),
    (EVALUATE + "--metric pck ", "--skeleton coco", "goes with metric oks"),
    (EVALUATE + "--metric oks ", "--thresholds [0.3]", "goes with metric pck"),
    (EVALUATE, "--lengths box", "goes with metric pck"),
    (SPARSIFY + "--frames 2 ", "--offset 1", "goes with every"),
    (SPARSIFY + "--protocol posetrack-truth ", "--every 2", "keeps the whole run"),
    (SPARSIFY + "--every 2 ", "--spread random", "goes with frames"),
    (SPARSIFY + "--frames 2 ", "--seed 1", "goes with videos"),
    ("convert {root}/train.json {out}/x.csv ", "--renamed false", "goes with files of PoseTrack17"),
]

#: The same options with their defaults, which say nothing new.
HARMLESS = [
    SPARSIFY + "--frames 2 --offset 0 --spread even --seed 0",
    "convert {root}/train.json {out}/x.csv --renamed true",
    EVALUATE + "--metric pck --lengths head --tracking false --thresholds [0.05,0.1,0.2,0.5]",
    AGGREGATE + "--box_threshold 0.2 --neck head_bottom --dummy_people false --device cpu",
    PREDICT + "--boxes frame --beta 20 --min_cutoff 1 --box_threshold 0.5 --lost_below 0.2",
    PROPAGATE + "--method copy --preset medium --rounded false --flip_test false",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def run(line: str, root: Path, out: Path) -> int:
    return cli.main([word.format(root=root, out=out) for word in line.split()])


@pytest.mark.parametrize(("command", "option", "message"), REFUSED)
def test_an_option_without_effect_is_refused(command, option, message, root, tmp_path, capfd):
    assert run(command + option, root, tmp_path) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    name = option.split()[0].removeprefix("--")
    assert error.startswith(f"posewarper: error: {name}: ") and message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", HARMLESS)
def test_defaults_may_be_said(line, root, tmp_path, capfd):
    assert run(line, root, tmp_path) == 0, capfd.readouterr().err


def test_rates_of_videos_that_tell_their_own(root, tmp_path, capfd):
    """fit and suggest take the times of a video file from the file."""
    labels = load_coco(root / "sparse-train.json")
    (video,) = labels.videos
    film = replace(video, path="film.mp4", pattern="")
    names = tuple(film.file_name(number) for number in labels.frames.number.tolist())
    labels = replace(labels, videos=(film,), frames=replace(labels.frames, file_name=names))
    writer = cv2.VideoWriter(
        str(tmp_path / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 72)
    )
    for image in sorted((root / "train").iterdir()):
        writer.write(cv2.imread(str(image)))
    writer.release()
    save_coco(propagate_labels(labels, None, "copy"), tmp_path / "dense.json")
    save_coco(labels, tmp_path / "sparse.json")
    given = "{out}/film.mp4 --labels {out}/sparse.json --out {out}/fit --fps 10"
    assert run(f"fit {given}", root, tmp_path) == 2
    assert "fps: goes with folders of images" in capfd.readouterr().err
    assert not (tmp_path / "fit").exists()
    assert run("suggest {out}/dense.json --images {out} --fps 10", root, tmp_path) == 2
    assert "is a video file, which tells its own" in capfd.readouterr().err
    assert run("suggest {out}/dense.json --images {out}", root, tmp_path) == 0
