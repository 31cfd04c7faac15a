"""``posewarper train``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from posewarper.data.crops import Augmentation
from posewarper.data.people import left_out
from posewarper.models.devices import Precision, usable_precision
from posewarper.models.pose_model import BEST
from posewarper.skeleton import Skeleton
from posewarper.training.config import (
    DataConfig,
    InitPart,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    Stage,
    differences,
)
from posewarper.training.loading import check_batch, training_batches, validation_batches
from posewarper.training.loop import Training, log
from posewarper.training.processes import Processes, join
from posewarper.training.run_folder import FINAL, RunFolder, read_state_file
from posewarper.training.starting import start

_MODEL, _AUGMENTATION, _LOSS = ModelConfig(), Augmentation(), LossConfig()
_OPTIMIZER, _SCHEDULE, _LOOP = OptimizerConfig(), ScheduleConfig(), LoopConfig()


@dataclass(frozen=True)
class TrainingResult:
    """What a run left behind.

    Attributes:
        folder: of the run; ``load_model`` and ``init`` take it.
        best: model with the best validation score; without validation the last one.
        final: model after the last epoch.
        epochs: how many were trained.
        pck: validation score of ``best``; None without validation.
        history: the rows of ``log.csv``.
    """

    folder: Path
    best: Path
    final: Path
    epochs: int
    pck: float | None
    history: tuple[dict[str, Any], ...]


def train(
    data: DataConfig,
    out: Path | None = None,
    stage: Stage = "pose",
    init: Path | None = None,
    init_part: InitPart = "all",
    model: ModelConfig = _MODEL,
    augmentation: Augmentation = _AUGMENTATION,
    loss: LossConfig = _LOSS,
    optimizer: OptimizerConfig = _OPTIMIZER,
    schedule: ScheduleConfig = _SCHEDULE,
    loop: LoopConfig = _LOOP,
    restart: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train a model on sparse labels; the same command goes on after an interrupt.

    Args:
        data: annotations and frames.
        out: folder of the run; by default runs/pose or runs/warp.
        stage: pose: the single-frame model; warp: the warp head on top of it, from pairs of frames.
        init: model to start from: a model file, a folder of training, or published weights.
            Stage warp needs one.
        init_part: all weights, or features: all but the last layer, for other joints (stage pose).
        model: sizes of the network.
        augmentation: how training crops vary.
        loss: what is minimised.
        optimizer: how parameters move.
        schedule: the learning rate over time.
        loop: how long, how much at a time, on what.
        restart: start over in a folder that holds a run.
        progress: show a bar where there is a terminal.

    Returns:
        Where the models are and how well they did.

    Raises:
        ValueError: options or files that do not fit each other, a frame that cannot be read, a
            loss that is not finite.
        OSError: a file cannot be read or written.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is written.
    """
    config = RunConfig(
        data, Path("runs") / stage if out is None else out, stage, init, init_part, model,
        augmentation, loss, optimizer, schedule, loop,
    )  # fmt: skip
    with join(loop.device) as processes:
        result = _train(config, processes, restart, progress)
        if processes.is_first:
            score = "no validation" if result.pck is None else f"validation PCK {result.pck:.3f}"
            print(f"best model: {result.best} ({score})")
        return result


def _precision(precision: Precision, processes: Processes) -> Precision:
    """The same for all processes: what the slowest processor can do."""
    if precision == "fp32":
        return precision
    usable = usable_precision(processes.device, precision, "loop.precision")
    return precision if not processes.any(usable != precision)[0] else "fp32"


def _train(
    config: RunConfig, processes: Processes, restart: bool, progress: bool
) -> TrainingResult:
    loop = config.loop
    if loop.precision == "fp16" and processes.device.type != "cuda":
        raise ValueError("loop.precision: fp16 needs a GPU; bf16 works on the CPU")
    # A run says what it was computed in: it goes on elsewhere in the same precision, or not at all.
    loop = replace(loop, precision=_precision(loop.precision, processes))
    config = replace(config, loop=loop)
    if processes.device.type == "cuda":
        torch.backends.cudnn.deterministic = loop.deterministic
        torch.backends.cudnn.benchmark = not loop.deterministic
    state = None if restart else read_state_file(config.out)
    if state is not None:
        begun = state["position"]["epoch"] + (state["position"]["step"] > 0)
        if loop.epochs < begun:
            raise ValueError(
                f"loop.epochs: expected at least {begun}, as the run in {config.out} is that far, "
                f"got {loop.epochs}; choose another folder, or --restart true to start over"
            )
        changed = differences(state["config"], config.plain())
        if changed:
            raise ValueError(
                f"{config.out}: holds a run with another configuration ({'; '.join(changed)}); "
                "choose another folder, or --restart true to start over"
            )
    start_model, train_set, val_set = start(config)
    crops = {
        "crop_wh": start_model.crop_wh,
        "padding": start_model.padding,
        "sigma": start_model.sigma,
        "upright": start_model.upright,
        "support_box": start_model.support_box,
    }
    train_batches = training_batches(config, train_set, processes, crops)
    if processes.count == 1:  # before the first epoch, whose last batch may be too small
        order = train_batches.order
        check_batch(start_model, (order.per_epoch - 1) % order.batch_size + 1)
    val_batches = None
    if val_set is not None:
        val_batches = validation_batches(config, val_set, processes, crops)
    processes.wait()  # everybody has read the state before the first one writes
    folder = RunFolder(config.out) if processes.is_first else None
    training = Training(
        config, start_model, train_batches, val_batches, processes, folder, progress
    )
    if state is not None:
        training.resume(state)
    if folder is not None:
        if restart:
            folder.clear()
        folder.write_setting(config.plain(), processes.device)
        if state is not None:  # a crash may have come between the state and the log
            folder.write_log(training.history)
        _announce(training, resumed=state is not None)
    if training.position.epoch < loop.epochs:
        training.run()
    elif folder is not None and not (config.out / FINAL).exists():
        training.write_final()
    return TrainingResult(
        config.out,
        config.out / BEST,
        config.out / FINAL,
        training.position.epoch,
        None if training.best is None else training.best[0],
        tuple(training.history),
    )


def _announce(training: Training, resumed: bool) -> None:
    config, position = training.config, training.position
    parameters = sum(p.numel() for p in training.network.parameters() if p.requires_grad)
    log.info(
        "stage %s, %s: %d samples, %.2f M parameters to train, %s, %d x %d samples per step",
        config.stage,
        f"going on after step {position.step} of epoch {position.epoch + 1}"
        if resumed
        else f"from {config.init or 'random weights'}",
        len(training.train_set.samples),
        parameters / 1e6,
        training.processes.device,
        training.processes.count * config.loop.accumulate,
        config.loop.batch_size,
    )
    for batches in (training.train_set, training.val_set):
        if batches is not None and (who := left_out(batches.samples.dataset)):
            log.warning("%s", who)
    if config.augmentation.flip_probability > 0:
        log.info("%s", _mirroring(training.model.skeleton))


def _mirroring(skeleton: Skeleton) -> str:
    """Which joints change places in mirrored crops, or why none are mirrored."""
    names = skeleton.joints
    if skeleton.why_not_mirrored:
        return (
            f"crops are not mirrored: the skeleton tells {skeleton.why_not_mirrored}; flip_pairs "
            "in a YAML file (--data.skeleton) name the pairs, and a joint on the middle line is "
            "paired with itself"
        )
    pairs = [(names[a], names[b]) for a, b in skeleton.flip_pairs if a != b]
    middle = [joint for i, joint in enumerate(names) if skeleton.mirrored[i] == i]
    return (
        f"mirrored crops exchange {', '.join(' and '.join(pair) for pair in pairs) or 'none'}"
        + (f"; on the middle line: {', '.join(middle)}" if middle else "")
    )
