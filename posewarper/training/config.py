"""What a training run is made of: options in groups, checked when they are made.

The command line, recipes and ``config.yaml`` of a run all have these names. None means "as the
model that training starts from, or else the published value".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from posewarper.data.crops import Augmentation
from posewarper.data.dataset import SupportBox
from posewarper.data.video import Missing
from posewarper.heatmaps import REFINEMENTS
from posewarper.models import HRNET_SIZES, WINDOWS
from posewarper.models.devices import Precision

Stage = Literal["pose", "warp"]
InitPart = Literal["all", "features"]


@dataclass(frozen=True)
class DataConfig:
    """Annotations, frames, and how people become crops and targets.

    Attributes:
        train: annotations to learn from: a COCO-style file or a folder of official PoseTrack files.
        images: folder that the paths of frames start in.
        val: annotations for validation; without them there is none.
        val_images: folder of the validation frames, where it is another one.
        skeleton: joints, by name (posetrack, coco) or as a YAML file; by default those of the
            annotation file.
        crop_wh: width and height of crops in pixels; by default 288 x 384.
        padding: growth of boxes before they are cropped; by default 1.25.
        sigma: standard deviation of the targets in heatmap pixels (4 crop pixels each); by
            default 3.
        upright: turn crops so that the pose stands upright, whichever way the person lies in the
            image; for animals seen from above. Prediction then needs the direction, too. By default
            as ``init``, or not.
        support_box: in stage warp the support frame is cropped with the key frame's box (key, as
            in 2019) or with its own, interpolated between the labels around it (own); by default as
            ``init``, or key.
        rounded: centre targets on the nearest heatmap pixel, as in 2019; false keeps what small
            heatmaps would round away.
        score_power: pseudo-labels count by their score to this power, so that doubtful joints
            teach little; 0: as much as human labels.
        delta_range: the support frame lies up to so many frames before or after the labelled one;
            every distance is equally likely, 0 included (stage warp).
        delta: a fixed distance of the support frame in place of drawn ones.
        deinterlace: fill in the lines of interlaced video files, whose frames show two moments.
        missing: what happens where a frame is missing or damaged: an error, leave the sample out
            (and report it), take the nearest frame, or take the key frame.
        workers: processes that prepare samples, for each training process; 0 prepares them in the
            training process; by default chosen by the machine.
        cache_mb: memory in MiB for decoded frames, shared out among the workers of a training
            process; a data set that fits is decoded once.
        heatmap_cache_mb: memory in MiB, in each training process, for heatmaps of a frozen backbone
            (stage warp) of crops that are the same in every epoch: those of validation, and without
            augmentation those of training. They are neither decoded nor passed through the backbone
            again. 0: none are kept.
    """

    train: Path
    images: Path
    val: Path | None = None
    val_images: Path | None = None
    skeleton: str | None = None
    crop_wh: tuple[int, int] | None = None
    padding: float | None = None
    sigma: float | None = None
    upright: bool | None = None
    support_box: SupportBox | None = None
    rounded: bool = True
    score_power: float = 0.0
    delta_range: int = 2
    delta: int | None = None
    missing: Missing = "error"
    deinterlace: bool = False
    workers: int | None = None
    cache_mb: int = 1024
    heatmap_cache_mb: int = 0

    def __post_init__(self) -> None:
        if self.crop_wh is not None:
            _at_least("data.crop_wh", min(self.crop_wh), 1)
        for name in ("padding", "sigma"):
            if getattr(self, name) is not None:
                _positive(f"data.{name}", getattr(self, name))
        for name in ("delta_range", "workers", "cache_mb", "heatmap_cache_mb", "score_power"):
            if getattr(self, name) is not None:
                _at_least(f"data.{name}", getattr(self, name), 0)
        _one_of("data.missing", self.missing, get_args(Missing))
        _one_of("data.support_box", self.support_box, (None, *get_args(SupportBox)))


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network.

    In stage warp, and where training starts from a model file, the backbone's sizes are that
    model's.

    Attributes:
        size: preset of the backbone, w48 (published), w32, w16 or w8; the next five options
            override it.
        width: channels of the finest branch.
        modules: exchange modules of each stage.
        blocks: basic blocks per branch and module.
        stem_width: channels of the stem.
        stem_blocks: bottleneck blocks of the stem.
        softmax_sigma: heatmaps are a softmax over all pixels, scaled to the height of a Gaussian of
            this standard deviation in heatmap pixels; none: the last layer's outputs, as published.
        head_width: channels of the warp head's residual blocks; by default as ``init``, or 128.
        head_blocks: how many of them; by default as ``init``, or 20.
        dilations: of the warp's convolutions; by default as ``init``, or 3, 6, 12, 18, 24. Weights
            alone do not tell theirs.
        refinement: how the finished model decodes maxima (quarter, dark, none); by default quarter.
        window: frames and weights that the finished model aggregates by, one of posetrack-2019,
            posetrack-2019-causal, paper, paper-causal; by default posetrack-2019.
        freeze_backbone: in stage warp train the head only, as in the paper.
        backbone_batch_stats: a frozen backbone normalises by the statistics of the batch and
            updates its own, as in 2019.
        reset_head: in stage warp start with a new head, the identity, also where ``init`` has one.
    """

    size: str | None = None
    width: int | None = None
    modules: tuple[int, ...] | None = None
    blocks: int | None = None
    stem_width: int | None = None
    stem_blocks: int | None = None
    softmax_sigma: float | None = None
    head_width: int | None = None
    head_blocks: int | None = None
    dilations: tuple[int, ...] | None = None
    refinement: str | None = None
    window: str | None = None
    freeze_backbone: bool = True
    backbone_batch_stats: bool = False
    reset_head: bool = False

    def __post_init__(self) -> None:
        _one_of("model.size", self.size, (None, *HRNET_SIZES))
        _one_of("model.refinement", self.refinement, (None, *REFINEMENTS))
        _one_of("model.window", self.window, (None, *WINDOWS))
        for name in ("width", "blocks", "stem_width", "stem_blocks", "head_width", "head_blocks"):
            if getattr(self, name) is not None:
                _at_least(f"model.{name}", getattr(self, name), 1)
        for name in ("modules", "dilations"):
            numbers = getattr(self, name)
            if numbers is not None:
                _at_least(f"model.{name}", min(numbers, default=0), 1)
        if self.softmax_sigma is not None:
            _positive("model.softmax_sigma", self.softmax_sigma)

    def backbone(self) -> dict[str, Any]:
        """The backbone's arguments that are given, by the preset or one by one."""
        preset = {} if self.size is None else HRNET_SIZES[self.size]
        names = ("width", "modules", "blocks", "stem_width", "stem_blocks", "softmax_sigma")
        return preset | {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def head(self) -> dict[str, Any]:
        """The head's arguments of ``WarperConfig`` that are given."""
        names = ("head_width", "head_blocks", "dilations")
        given = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        return given if self.window is None else {**given, "window": WINDOWS[self.window]}


@dataclass(frozen=True)
class LossConfig:
    """What is minimised.

    Attributes:
        kind: mse: the squared error of heatmaps, as in 2019; cross_entropy: of the spatial
            softmax against the target, for stage pose and a model with softmax_sigma.
        joint_weights: weights of joints by name, 1 where not given. The 2019 option has 1.2 for
            elbows and knees, 1.5 for wrists and ankles.
    """

    kind: Literal["mse", "cross_entropy"] = "mse"
    joint_weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("loss.kind", self.kind, ("mse", "cross_entropy"))
        for joint, weight in self.joint_weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"loss.joint_weights: {joint}: expected 0 or more, got {weight!r}")


@dataclass(frozen=True)
class OptimizerConfig:
    """How parameters move.

    Attributes:
        kind: adam, adamw or sgd.
        lr: learning rate at its highest.
        weight_decay: L2 penalty of adam and sgd, decay of adamw.
        decay_all: decay biases, the scales of normalisation and the warp's kernels (which start as
            the identity) too; else weights of convolutions only.
        momentum: of sgd.
        nesterov: of sgd only.
        max_norm: longer gradients (2-norm of all) are shortened to this; none: as they are.
        ema: decay per step of a moving average of the weights, for instance 0.999; it is what is
            validated and saved. None: no average.
    """

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = 1e-4
    weight_decay: float = 0.0
    decay_all: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    max_norm: float | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        _one_of("optimizer.kind", self.kind, ("adam", "adamw", "sgd"))
        _positive("optimizer.lr", self.lr)
        _at_least("optimizer.weight_decay", self.weight_decay, 0)
        _share("optimizer.momentum", self.momentum)
        if self.nesterov and (self.kind != "sgd" or self.momentum == 0):
            raise ValueError(
                f"optimizer.nesterov: expected sgd with a momentum above 0, got {self.kind} with "
                f"{self.momentum}"
            )
        if self.momentum != OptimizerConfig.momentum and self.kind != "sgd":
            raise ValueError(f"optimizer.momentum: goes with sgd, got {self.kind}")
        if self.max_norm is not None:
            _positive("optimizer.max_norm", self.max_norm)
        if self.ema is not None:
            _share("optimizer.ema", self.ema)


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over time, a function of the step alone.

    Attributes:
        kind: step: times ``factor`` after each milestone; cosine: to 0 at the end; constant.
        milestones: of kind step, epochs after which the rate drops: 10, 15 of 20 epochs gives 10, 5
            and 5 epochs at three rates.
        factor: of each drop.
        warmup: share of all steps in which the rate grows linearly from 0.
    """

    kind: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _one_of("schedule.kind", self.kind, ("step", "cosine", "constant"))
        if (
            list(self.milestones) != sorted(set(self.milestones))
            or min(self.milestones, default=1) < 1
        ):
            raise ValueError(
                f"schedule.milestones: expected growing numbers from 1, got {self.milestones}"
            )
        if self.milestones and self.kind != "step":
            raise ValueError(
                f"schedule.milestones: expected none with schedule.kind {self.kind}, got "
                f"{list(self.milestones)}"
            )
        _positive("schedule.factor", self.factor)
        if self.factor != ScheduleConfig.factor and not self.milestones:
            raise ValueError("schedule.factor: goes with schedule.milestones, and there are none")
        _share("schedule.warmup", self.warmup)


@dataclass(frozen=True)
class LoopConfig:
    """How long, how much at a time, and on what.

    Attributes:
        epochs: passes over the data, or over ``samples_per_epoch`` samples each.
        batch_size: samples per training process and step.
        samples_per_epoch: samples of one epoch, taken from an endless sequence of shuffled passes;
            by default as many as there are.
        accumulate: batches whose gradients are added before each step.
        validate_every: epochs between validations; the last epoch is always validated.
        precision: of convolutions; fp16 needs a GPU.
        channels_last: the memory layout that convolutions are fastest in.
        compile: compile the network; worth it for long runs on a GPU.
        device: auto, cpu, cuda or cuda:1; with torchrun cuda, of which every process takes its own.
        sync_batch_norm: with several processes, normalise by the statistics of all of them.
        seed: of initial weights, order and augmentation.
        deterministic: choose convolution algorithms on a GPU that repeat exactly, at some cost.
    """

    epochs: int = 20
    batch_size: int = 16
    samples_per_epoch: int | None = None
    accumulate: int = 1
    validate_every: int = 1
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: bool = False
    device: str = "auto"
    sync_batch_norm: bool = True
    seed: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "validate_every"):
            _at_least(f"loop.{name}", getattr(self, name), 1)
        if self.samples_per_epoch is not None:
            _at_least("loop.samples_per_epoch", self.samples_per_epoch, 1)
        _at_least("loop.seed", self.seed, 0)
        _one_of("loop.precision", self.precision, ("fp32", "bf16", "fp16"))


@dataclass(frozen=True)
class RunConfig:
    """All of a run. Attributes: see ``train``.

    Raises:
        ValueError: options that contradict each other; names them.
    """

    data: DataConfig
    out: Path
    stage: Stage = "pose"
    init: Path | None = None
    init_part: InitPart = "all"
    model: ModelConfig = field(default_factory=ModelConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        _one_of("stage", self.stage, ("pose", "warp"))
        _one_of("init_part", self.init_part, ("all", "features"))
        if self.stage == "warp":
            if self.init is None:
                raise ValueError(
                    "init: stage warp starts from a single-frame model: expected a model file or a "
                    "folder of training, got none"
                )
            if self.init_part != "all":
                raise ValueError("init_part: expected 'all' in stage warp, got 'features'")
            if self.model.backbone_batch_stats and not self.model.freeze_backbone:
                raise ValueError(
                    "model.backbone_batch_stats: goes with a frozen backbone; one that learns "
                    "has them in any case"
                )
            if self.loss.kind != "mse":
                raise ValueError(f"loss.kind: expected 'mse' in stage warp, got {self.loss.kind!r}")
            self._check_heatmap_cache()
        else:
            self._refuse_pairs()
        if self.data.val_images is not None and self.data.val is None:
            raise ValueError("data.val_images: goes with data.val, and there is none")
        if self.init is None and self.init_part != "all":
            raise ValueError(f"init_part: {self.init_part!r} needs a model to start from, init")
        if self.init is None and self.loss.kind == "cross_entropy" and not self.model.softmax_sigma:
            raise ValueError("loss.kind: cross_entropy needs model.softmax_sigma, got none")
        if self.loop.precision == "fp16" and self.loop.device == "cpu":
            raise ValueError("loop.precision: fp16 needs a GPU; bf16 works on the CPU")

    def _refuse_pairs(self) -> None:
        """Options of stage warp, which stage pose would take and not use."""
        own, pairs = "stage pose trains the backbone", "stage pose has single frames"
        for name, wrong, why in (
            ("data.heatmap_cache_mb", self.data.heatmap_cache_mb != 0, own),
            ("model.reset_head", self.model.reset_head, "models of stage pose have no head"),
            ("model.freeze_backbone", not self.model.freeze_backbone, own),
            ("model.backbone_batch_stats", self.model.backbone_batch_stats, own),
            ("data.support_box", self.data.support_box is not None, pairs),
            ("data.delta", self.data.delta is not None, pairs),
            ("data.delta_range", self.data.delta_range != DataConfig.delta_range, pairs),
            (
                "augmentation.key_damage_probability",
                self.augmentation.key_damage_probability != 0,
                pairs,
            ),
        ):
            if wrong:
                raise ValueError(f"{name}: expected stage warp; {why}")

    @property
    def backbone_is_fixed(self) -> bool:
        """Whether the heatmaps of a crop are the same in every step."""
        frozen = self.model.freeze_backbone and not self.model.backbone_batch_stats
        return self.stage == "warp" and frozen

    def _check_heatmap_cache(self) -> None:
        if not self.data.heatmap_cache_mb:
            return
        if not self.backbone_is_fixed:
            raise ValueError(
                "data.heatmap_cache_mb: expected model.freeze_backbone true and "
                "model.backbone_batch_stats false; else the backbone changes in every step"
            )
        if self.data.val is None and not self.augmentation.changes_nothing:
            raise ValueError(
                "data.heatmap_cache_mb: expected augmentation that changes nothing (all factors "
                "and probabilities 0), or data.val: other crops are new in every epoch"
            )

    def plain(self) -> dict[str, Any]:
        """Nested dictionaries and lists: what ``config.yaml`` holds."""
        mapping = _plain(asdict(self))
        assert isinstance(mapping, dict)
        return mapping


#: May differ when a run goes on: they do not change what is learned.
HARMLESS = (
    "out", "data.images", "data.val_images", "data.workers", "data.cache_mb",
    "data.heatmap_cache_mb", "loop.device", "loop.compile",
)  # fmt: skip


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why a run of one plain configuration cannot go on with another: ``name: old -> new``.

    Options that the old one does not know, being of an older version, had their default. Another
    number of epochs is no reason, except where the schedule stretches over the whole run.
    """
    defaults = RunConfig(DataConfig(Path(), Path()), Path()).plain()
    whole = {
        name: {**value, **old.get(name, {})} if isinstance(value, dict) else old.get(name, value)
        for name, value in defaults.items()
    }
    was, now = flatten({**old, **whole}), flatten(new)
    harmless = set(HARMLESS)
    if now.get("schedule.kind") != "cosine" and not now.get("schedule.warmup"):
        harmless.add("loop.epochs")
    return [
        f"{name}: {was.get(name)} -> {now.get(name)}"
        for name in sorted({*was, *now} - harmless)
        if was.get(name) != now.get(name)
    ]


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dots in the names."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _at_least(name: str, value: float, least: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name}: expected at least {least}, got {value!r}")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}: expected a positive number, got {value!r}")


def _share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected 0 or more and below 1, got {value!r}")


def _one_of(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        names = ", ".join(str(one) for one in known if one is not None)
        raise ValueError(f"{name}: expected one of {names}, got {value!r}")
