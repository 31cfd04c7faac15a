"""Real PoseTrack18 files by the command line, from training to the official numbers.

Frames, official annotations and a detector's boxes, none of them edited. Of each video only the
labelled frame is there, so that the policy for missing frames takes part.
"""

import json
import math
from pathlib import Path

import pytest

from posewarper import cli

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "posetrack18_sample"

pytestmark = [
    pytest.mark.skipif(
        not SAMPLE.exists(), reason="the PoseTrack18 sample is not redistributable; not found here"
    ),
    pytest.mark.filterwarnings("ignore:.*No such file or directory .policy:UserWarning"),
]


def run(*arguments: object) -> None:
    assert cli.main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of both stages, a few steps each."""
    runs = tmp_path_factory.mktemp("runs")
    labels = SAMPLE / "annotations" / "val"
    common = (
        "--data.train", labels, "--data.val", labels,
        "--data.images", SAMPLE, "--data.missing", "key", "--loop.epochs", 2,
        "--loop.samples_per_epoch", 32, "--loop.batch_size", 8, "--progress", "false",
    )  # fmt: skip
    run("train", "--config", "small-pose", *common, "--out", runs / "pose")
    run("train", "--config", "small-warp", *common, "--init", runs / "pose", "--out", runs / "warp")
    return runs


def test_training_learns(trained: Path) -> None:
    rows = (trained / "pose" / "log.csv").read_text().splitlines()
    names = rows[0].split(",")
    losses = [float(row.split(",")[names.index("train_loss")]) for row in rows[1:]]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert (trained / "warp" / "best.pt").exists()


@pytest.mark.parametrize("boxes", ["detector", "annotated"])
def test_predictions_go_through_the_evaluation(trained: Path, tmp_path: Path, boxes: str) -> None:
    detections = SAMPLE / "annotations" / "test_posetrack18_human_detections.json"
    run(
        "aggregate", SAMPLE / "annotations" / "val", tmp_path / "poses",
        "--model", trained / "warp", "--images", SAMPLE, "--mode", "both", "--missing", "key",
        *(("--boxes", detections, "--box_threshold", 0.5, "--nms", 0.9) if boxes == "detector"
          else ()),
        "--flip_test", "true", "--format", "posetrack18", "--progress", "false",
    )  # fmt: skip
    for mode in ("aggregate", "single"):
        out = tmp_path / f"{mode}.json"
        run("evaluate", SAMPLE / "annotations" / "val", tmp_path / "poses" / mode, "--out", out)
        mean = json.loads(out.read_text())["groups"]["AP"]["Mean"]
        assert math.isfinite(mean) and 0 <= mean <= 100


def test_labels_propagate_into_other_frames(trained: Path, tmp_path: Path) -> None:
    """To the frames that exist only: the sample has one per video."""
    out = tmp_path / "dense.json"
    run(
        "propagate", SAMPLE / "annotations" / "val", out, "--model", trained / "warp",
        "--images", SAMPLE, "--distance", 1, "--missing", "skip", "--progress", "false",
    )  # fmt: skip
    content = json.loads(out.read_text())
    assert len(content["annotations"]) == 14  # the labelled people, as they were
    run("stats", out)
