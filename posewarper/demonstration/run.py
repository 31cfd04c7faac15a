"""The steps of the demo, in their order."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.crops import Augmentation
from posewarper.data.dataset import annotated_boxes
from posewarper.data.sparsify import every_kth
from posewarper.data.synthetic import Difficulty, write_dataset
from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameSource
from posewarper.demonstration.folder import DemoFolder, Settings
from posewarper.demonstration.page import write_page
from posewarper.demonstration.results import measure
from posewarper.files import read_json, write_json
from posewarper.inference import (
    PosePredictor,
    augment_labels,
    predict_boxes,
    propagate_labels,
)
from posewarper.inference.aggregation import Mode
from posewarper.models import Window, load_model
from posewarper.training import (
    DataConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    recipe_path,
    train,
)
from posewarper.training.run_folder import FINAL

Step = tuple[str, list[Path], Callable[[], None]]  # title, what it makes, how

_STEP = 7  # every 7th frame is labelled, from the fourth on, as in the paper
_OFFSET = 3
_EPOCHS = 10  # of each training: points of the learning curves
_DIFFICULTY = Difficulty()
_WINDOW = Window.equal(-3, -2, -1, 0, 1, 2, 3)  # the paper's
_GROUPS: dict[str, Callable[..., Any]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "augmentation": Augmentation,
    "loss": LossConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "loop": LoopConfig,
}

#: What ``propagated/`` holds: name -> options of ``propagate_labels``. The first is the project's.
PROPAGATIONS: dict[str, dict[str, Any]] = {
    "warp": {"method": "warp", "sources": "both", "own_weight": 1 / 3},
    "warp-both": {"method": "warp", "sources": "both"},
    "warp-nearest": {"method": "warp"},
    "single": {"method": "single", "box": "interpolated"},
    "flow": {"method": "flow"},
    "flow-both": {"method": "flow", "sources": "both"},
    "linear": {"method": "linear"},
    "copy": {"method": "copy"},
}


def demo(
    out: Path = Path("demo"),
    seed: int = 0,
    train_videos: int = 20,
    val_videos: int = 20,
    frames: int = 29,
    people: int = 2,
    pose_samples: int = 57_600,
    warp_samples: int = 16_000,
    threshold: float = 0.3,
    difficulty: Difficulty = _DIFFICULTY,
    restart: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Run the whole method on synthetic videos and write a report: minutes on two cores, no GPU.

    Makes videos, labels every 7th frame, trains both stages, propagates the labels, trains again on
    them, predicts new videos from windows of frames, and compares all of it with the truth. The
    same command goes on after an interrupt.

    Args:
        out: folder to write to; open report.html there.
        seed: of the videos, the networks and the order of samples.
        train_videos: videos with sparse labels.
        val_videos: videos for the comparison of models, without labels.
        frames: of each video.
        people: in each video.
        pose_samples: crops that each of the two trainings of the single-frame network takes.
        warp_samples: pairs of crops that the training of the warp head takes.
        threshold: pseudo-labels with a score not above it are left out of the training.
        difficulty: how fast people move, how much is blurred, defocused, hidden.
        restart: start over in a folder that holds a demo.
        progress: show progress bars.

    Returns:
        The numbers of the report, as in results.json.

    Raises:
        ValueError: the folder holds a demo with other settings, or something else.
        OSError: a file cannot be written.
    """
    settings = Settings(
        seed, train_videos, val_videos, frames, people, pose_samples, warp_samples, threshold,
        difficulty,
    )  # fmt: skip
    folder = DemoFolder(out, settings, restart)
    steps = _steps(folder, settings, progress)
    for number, (title, outputs, work) in enumerate(steps, 1):
        folder.run(f"{number}/{len(steps)} {title}", outputs, work)
    results: dict[str, Any] = read_json(out / "results.json")
    for claim in results["claims"]:
        sign = {"true": "+", "mixed": "~", "false": "-"}[claim["verdict"]]
        print(f"{sign} {claim['text']}: {claim['gain']}")
    print(f"{out / 'report.html'}")
    return results


def _steps(folder: DemoFolder, settings: Settings, progress: bool) -> list[Step]:
    seed = settings.seed

    def make_videos() -> None:
        shutil.rmtree(folder.videos, ignore_errors=True)
        write_dataset(
            folder.videos,
            videos={"train": settings.train_videos, "val": settings.val_videos},
            frames=settings.frames, people=settings.people, seed=seed,
            difficulty=settings.difficulty,
            progress=progress,
        )  # fmt: skip

    def label() -> None:
        save_coco(every_kth(load_coco(folder.dense("train")), _STEP, _OFFSET), folder.sparse)

    def learn(recipe: str, out: Path, labels: Path, samples: int, init: Path | None = None) -> None:
        options = yaml.safe_load(recipe_path(recipe).read_text(encoding="utf-8"))
        options["data"] |= {
            "train": labels, "val": folder.dense("val"), "images": folder.videos,
        }  # fmt: skip
        options["loop"] |= {
            "epochs": _EPOCHS, "samples_per_epoch": -(-samples // _EPOCHS), "validate_every": 2,
            "seed": seed, "device": "cpu",
        }  # fmt: skip
        groups = {
            name: make(**{key: _tuple(value) for key, value in options.get(name, {}).items()})
            for name, make in _GROUPS.items()
        }
        train(**groups, out=out, stage=options["stage"], init=init, progress=progress)

    def propagate(name: str) -> None:
        spread = propagate_labels(
            load_coco(folder.sparse), _frames(folder), predictor=_predictor(folder.warp),
            progress=progress, **PROPAGATIONS[name],
        )  # fmt: skip
        save_coco(spread, folder.propagated(name))

    def augment() -> None:
        larger, _ = augment_labels(
            load_coco(folder.sparse), _frames(folder), predictor=_predictor(folder.warp),
            distance=_STEP, threshold=settings.threshold, progress=progress,
            **PROPAGATIONS["warp"],
        )  # fmt: skip
        save_coco(larger, folder.augmented)

    def aggregate() -> None:
        for name, dataset in _predict(folder, folder.warp, "both", progress).items():
            save_coco(dataset, folder.predicted(name))

    def predict_augmented() -> None:
        of_mode = _predict(folder, folder.pose_augmented, "single", progress)
        save_coco(of_mode["single"], folder.predicted("augmented"))

    def conclude() -> None:
        write_json(folder.root / "results.json", measure(folder, list(PROPAGATIONS)))

    def report() -> None:
        write_page(folder, asdict(settings))

    return [
        ("make videos", [folder.videos], make_videos),
        ("label every 7th frame", [folder.sparse], label),
        (
            "train the single-frame network",
            [folder.pose / FINAL],
            lambda: learn("small-pose", folder.pose, folder.sparse, settings.pose_samples),
        ),
        (
            "train the warp head",
            [folder.warp / FINAL],
            lambda: learn(
                "small-warp", folder.warp, folder.sparse, settings.warp_samples, folder.pose / FINAL
            ),
        ),
        *(
            (f"propagate: {name}", [folder.propagated(name)], lambda name=name: propagate(name))
            for name in PROPAGATIONS
        ),
        ("make pseudo-labels", [folder.augmented], augment),
        (
            "train on labels and pseudo-labels",
            [folder.pose_augmented / FINAL],
            lambda: learn(
                "small-pose", folder.pose_augmented, folder.augmented, settings.pose_samples
            ),
        ),
        (
            "predict new videos",
            [folder.predicted("single"), folder.predicted("aggregate")],
            aggregate,
        ),
        ("predict with the second network", [folder.predicted("augmented")], predict_augmented),
        ("measure", [folder.root / "results.json"], conclude),
        ("write the report", [folder.root / "report.html"], report),
    ]


def _frames(folder: DemoFolder) -> FrameSource:
    return FrameSource(folder.videos, cached_frames=256)


def _predictor(run: Path) -> PosePredictor:
    return PosePredictor(load_model(run / FINAL), device="cpu", precision="bf16")


def _predict(
    folder: DemoFolder, run: Path, mode: Mode, progress: bool
) -> Mapping[str, PoseDataset]:
    """Poses of the people of the validation videos in their true boxes, by mode."""
    truth = load_coco(folder.dense("val"))
    boxes = annotated_boxes(truth)
    found = predict_boxes(
        _predictor(run), boxes, _frames(folder), truth, mode=mode, window=_WINDOW,
        track_id=truth.people.track_id[boxes.row], progress=progress,
    )  # fmt: skip
    return found.datasets


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
