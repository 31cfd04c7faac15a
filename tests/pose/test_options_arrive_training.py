"""Every option of the commands that train reaches what acts on it."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from option_inputs import anything, exists, named, write_inputs
from option_places import Case, Cases, On, check
from random_models import random_model
from test_options_arrive import TABLE as JOBS
from test_options_arrive_files import TABLE as FILES

from posewarper import cli
from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.formats import save_labels
from posewarper.data.sparsify import every_kth
from posewarper.inference.propagation import propagate_labels
from posewarper.models import HRNET_SIZES, WINDOWS, PoseWarper, save_model
from posewarper.training.processes import Processes

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]

LOOP = "posewarper.training.loop"
RUN = f"{LOOP}:Training.run"  # from here on nothing is chosen
SAMPLES = f"{LOOP}:Training.train_set.samples"
SEEN = f"{LOOP}:Training.val_set.samples"
MODEL = f"{LOOP}:Training.model"
NETWORK = f"{LOOP}:Training.network"
ORDER = f"{LOOP}:Training.train_set.order"
RATE = f"{LOOP}:learning_rate"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Labels to learn from, and models to start from."""
    root = write_inputs(tmp_path_factory.mktemp("inputs"))
    joints = load_coco(root / "train.json").skeleton.joints
    (root / "joints.yaml").write_text(yaml.safe_dump({"joints": list(joints)}))
    save_model(random_model(head=False), root / "single.pt")
    for split in ("train", "val"):
        save_coco(every_kth(load_coco(root / f"{split}.json"), 3), root / f"third-{split}.json")
    save_labels(load_coco(root / "third-val.json"), root / "third-val.csv")
    save_coco(
        propagate_labels(load_coco(root / "sparse-train.json"), None, "copy"), root / "all.json"
    )
    return root


def has(**wanted):
    """Whether something has these attributes."""
    return lambda seen: all(getattr(seen, name) == value for name, value in wanted.items())


def of_optimizer(name: str, value: object):
    return lambda optimizer: optimizer.defaults.get(name) == value


def validations(out: Path):
    """How many epochs were validated."""

    def look(ran):
        with open(out / "log.csv", encoding="utf-8") as file:
            return sum(row["val_loss"] != "" for row in csv.DictReader(file))

    return look


@contextmanager
def two_processes(device):
    """As if torchrun had started another one."""
    yield Processes(0, 2, 2, torch.device("cpu"))


@contextmanager
def gpu(device):
    yield Processes(0, 1, 1, torch.device("cuda"))


def the_same(module, *args, **kwargs):
    """In place of what compiles, or shares with other processes."""
    return module


def train_cases(root: Path, out: Path) -> list[Case]:
    starting = "posewarper.training.starting"
    base = {
        "data.train": root / "train.json",
        "data.images": root / "data",
        "data.val": root / "val.json",
        "data.crop_wh": [64, 96],
        "data.workers": 0,
        "out": out / "plain",
        "model.size": "w8",
        "loop.epochs": 2,
    }
    warp = {**base, "stage": "warp", "init": root / "0.pt", "out": out / "warp"}
    del warp["data.crop_wh"], warp["model.size"]
    pose = {**warp, "init": root / "single.pt", "out": out / "new"}
    short = {**base, "loop.epochs": 4, "loop.batch_size": 8, "out": out / "short"}
    changed = {
        "scale_factor": 0.1,
        "rotation_factor": 11.0,
        "rotation_probability": 0.2,
        "flip_probability": 0.1,
        "half_body_probability": 0.4,
        "half_body_joints": 5,
        "half_body_draw": "uniform",
    }
    sizes = {
        "width": 16,
        "modules": [1, 2],
        "blocks": 2,
        "stem_width": 8,
        "stem_blocks": 2,
        "softmax_sigma": 1.25,
    }
    pixels = HRNET_SIZES["w16"]["width"]
    return [
        Case(
            {
                "data.train": On(root / "all.json", f"{SAMPLES}.dataset.source", named("all.json")),
                "data.images": On(root / "same", f"{SAMPLES}.source.root"),
                "data.val": On(root / "train.json", f"{SEEN}.dataset.source", named("/train.json")),
                "data.val_images": On(root / "val_images", f"{SEEN}.source.root"),
                "data.skeleton": On(
                    root / "joints.yaml", f"{MODEL}.skeleton.name", named("joints.yaml")
                ),
                "data.crop_wh": On([96, 64], f"{SAMPLES}.crop_wh", also=(f"{MODEL}.crop_wh",)),
                "data.padding": On(1.5, f"{SAMPLES}.padding"),
                "data.sigma": On(1.75, f"{SAMPLES}.sigma", also=(f"{MODEL}.sigma",)),
                "data.upright": On(True, f"{MODEL}.upright", anything),
                "data.rounded": On(False, f"{SAMPLES}.rounded", also=(f"{SEEN}.rounded",)),
                "data.score_power": On(1.5, f"{SAMPLES}.score_power"),
                "data.missing": On("skip", f"{SAMPLES}.source.missing"),
                "data.deinterlace": On(True, f"{SAMPLES}.source._deinterlace"),
                "data.workers": On(1, f"{LOOP}:Training.train_set._loader.num_workers"),
                "data.cache_mb": On(
                    1, "posewarper.training.loading:FrameSource(cached_frames)", lambda n: n < 100
                ),
                "out": On(out / "run", exists(out / "run" / "config.yaml"), True),
                "init": On(root / "single.pt", f"{starting}:load_checkpoint(path)"),
                "init_part": On("features", f"{starting}:load_checkpoint(part)"),
                "model.refinement": On("dark", f"{MODEL}.refinement"),
                "model.window": On("paper", f"{MODEL}.config.window", WINDOWS["paper"]),
                **{
                    f"augmentation.{name}": On(value, f"{SAMPLES}.augmentation.{name}")
                    for name, value in changed.items()
                },
                "optimizer.decay_all": On(
                    True, f"{LOOP}:Training.optimizer.param_groups", lambda groups: len(groups) == 1
                ),
                "optimizer.kind": On(
                    "sgd", f"{LOOP}:Training.optimizer", lambda o: type(o) is torch.optim.SGD
                ),
                "optimizer.momentum": On(
                    0.7, f"{LOOP}:Training.optimizer", of_optimizer("momentum", 0.7)
                ),
                "optimizer.nesterov": On(
                    True, f"{LOOP}:Training.optimizer", of_optimizer("nesterov", True)
                ),
                "loop.samples_per_epoch": On(5, f"{ORDER}.per_epoch"),
                "loop.batch_size": On(3, f"{ORDER}.batch_size"),
                "loop.seed": On(
                    9, "torch:manual_seed(seed)", also=(f"{ORDER}.shuffle_seed", f"{SAMPLES}.seed")
                ),
                "restart": On(True, "posewarper.training.command:RunFolder.clear(self)", anything),
            },
            base,
            until=RUN,
        ),
        Case(
            {
                "loss.joint_weights": On(
                    {"nose": 2.0}, f"{LOOP}:Training.loss.joint_weights", lambda w: w.max() == 2
                ),
                "optimizer.lr": On(0.003, f"{RATE}(highest)"),
                "optimizer.weight_decay": On(
                    0.01,
                    f"{LOOP}:Training.optimizer.param_groups",
                    lambda g: g[0]["weight_decay"] == 0.01,
                ),
                "optimizer.max_norm": On(0.5, "torch.nn.utils:clip_grad_norm_(max_norm)"),
                "optimizer.ema": On(
                    0.3,
                    "posewarper.training.optimization:get_ema_multi_avg_fn(decay)",
                    lambda decay: decay <= 0.3,
                ),
                "schedule.milestones": On([1, 2], f"{RATE}(schedule)", has(milestones=(1, 2))),
                "schedule.factor": On(0.5, f"{RATE}(schedule)", has(factor=0.5)),
                "schedule.warmup": On(0.25, f"{RATE}(schedule)", has(warmup=0.25)),
                "loop.epochs": On(3, f"{RATE}(epochs)"),
                "loop.accumulate": On(
                    2, f"{LOOP}:Training._step(batches)", lambda batches: len(batches) == 2
                ),
                "loop.validate_every": On(2, validations(out / "short"), 2),
                "loop.precision": On("bf16", f"{LOOP}:autocast(precision)"),
                "loop.channels_last": On(
                    False, "posewarper.training.maps:CropsToMaps(channels_last)"
                ),
                "loop.compile": On(True, "torch:compile(module)", anything),
                "loop.device": On("cpu", "posewarper.training.processes:choose_device(name)"),
                "progress": On(False, f"{LOOP}:progress_bar(shown)"),
            },
            {**short, "loop.batch_size": 4, "loop.samples_per_epoch": 16},
            {"torch:compile": the_same},
        ),
        Case(
            {
                "model.size": On("w16", "posewarper.models.hrnet:HRNet(width)", pixels),
                "schedule.kind": On("cosine", f"{RATE}(schedule)", has(kind="cosine")),
                "loop.channels_last": On(
                    False, f"{NETWORK}.layer1.0.conv2.weight", lambda w: w.is_contiguous()
                ),
            },
            {**base, "out": out / "sizes", "loop.samples_per_epoch": 2, "loop.epochs": 1},
        ),
        Case(
            {
                **{
                    f"model.{name}": On(value, f"posewarper.models.hrnet:HRNet({name})")
                    for name, value in sizes.items()
                },
                "loss.kind": On("cross_entropy", f"{LOOP}:Training.loss.kind"),
            },
            {**base, "out": out / "widths"},
            until=RUN,
        ),
        Case(
            {
                "stage": On("warp", NETWORK, lambda network: isinstance(network, PoseWarper)),
                "data.support_box": On(
                    "own",
                    f"{SAMPLES}.support_box",
                    also=(f"{SEEN}.support_box", f"{MODEL}.support_box"),
                ),
                "data.delta_range": On(3, f"{SAMPLES}.delta_range", also=(f"{SEEN}.delta_range",)),
                "model.head_width": On(24, f"{NETWORK}.offsets.0.in_channels"),
                "model.head_blocks": On(
                    3, f"{NETWORK}.offset_feats", lambda blocks: len(blocks) == 3
                ),
                "model.dilations": On([1, 2, 5, 7], f"{NETWORK}.warp.dilations"),
                "model.backbone_batch_stats": On(True, f"{NETWORK}.backbone_batch_stats"),
            },
            {**pose, "stage": "pose"},
            until=RUN,
        ),
        Case(
            {"model.freeze_backbone": On(False, f"{NETWORK}.backbone_frozen")},
            {**pose, "out": out / "free"},
            until=RUN,
        ),
        Case(
            {
                "augmentation.key_damage_probability": On(
                    0.3, f"{SAMPLES}.augmentation.key_damage_probability"
                ),
                "data.delta": On(1, f"{SAMPLES}.delta", also=(f"{SEEN}.delta",)),
                "data.heatmap_cache_mb": On(4, f"{LOOP}:Training.val_set.seen._left", 4.0 * 2**20),
                "model.reset_head": On(True, f"{NETWORK}.offsets.0.weight", lambda w: not w.any()),
            },
            warp,
            until=RUN,
        ),
        Case(
            {"loop.sync_batch_norm": On(False, f"{LOOP}:Training.shared_norm")},
            {**base, "out": out / "two"},
            {
                "posewarper.training.command:join": two_processes,
                "posewarper.training.processes:Processes.wait": lambda self: None,
                f"{LOOP}:share_batch_norm": the_same,
                f"{LOOP}:share_gradients": the_same,
            },
            until=RUN,
        ),
        Case(
            {"loop.deterministic": On(True, lambda ran: torch.backends.cudnn.deterministic)},
            {**base, "out": out / "gpu"},
            {
                "posewarper.training.command:join": gpu,
                "torch.backends.cudnn:deterministic": False,
                "torch.backends.cudnn:benchmark": False,
            },
            until="posewarper.training.command:read_state_file",
        ),
    ]


def fit_cases(root: Path, out: Path) -> list[Case]:
    job, inputs = "posewarper.fitting.run", "posewarper.fitting.inputs"
    base = {
        "videos": root / "train",
        "labels": root / "third-train.json",
        "out": out / "plain",
        "effort": 0.0004,
    }
    return [
        Case(
            {
                "videos": On(
                    root / "val",
                    f"{inputs}:attach(videos)",
                    lambda v: list(v.values()) == [root / "val"],
                ),
                "labels": On(root / "third-val.csv", f"{inputs}:load_labels(path)"),
                "out": On(out / "fit", exists(out / "fit" / "report.html"), True),
                "skeleton": On(
                    root / "joints.yaml",
                    f"{job}:_Fit.inputs.dataset.skeleton.name",
                    named("joints.yaml"),
                ),
                "format": On("csv", f"{inputs}:load_labels(format)"),
                "holdout": On(0.34, f"{job}:hidden_frames(share)"),
                "upright": On(True, f"{SAMPLES}.rotation", np.any, also=(f"{MODEL}.upright",)),
                "effort": On(0.0008, f"{ORDER}.per_epoch", lambda count: count >= 2),
                "smooth": On(True, f"{job}:smooth_labels(times)", anything),
                "export": On(out / "labels.csv", exists(out / "labels.csv"), True),
                "film": On(False, lambda ran: any(ran.out.glob("*/overlays/*")), False),
                "fps": On(10.0, f"{job}:times(fps)"),
                "missing": On(
                    "skip", f"{job}:FrameSource.missing", also=(f"{SAMPLES}.source.missing",)
                ),
                "deinterlace": On(
                    True,
                    f"{job}:FrameSource._deinterlace",
                    also=(f"{SAMPLES}.source._deinterlace",),
                ),
                "seed": On(7, f"{ORDER}.shuffle_seed"),
                "device": On(
                    "cpu",
                    "posewarper.inference.predictor:choose_device(name)",
                    also=("posewarper.training.processes:choose_device(name)",),
                ),
                "restart": On(True, "posewarper.steps:StepFolder._prepare(restart)"),
                "progress": On(
                    False,
                    f"{LOOP}:progress_bar(shown)",
                    also=("posewarper.inference.propagation:progress_bar(shown)",),
                ),
            },
            base,
        ),
        Case(
            {
                "truth": On(root / "train.json", f"{job}:_Fit.truth.source", named("/train.json")),
                "predicted_as_labels": On(True, f"{inputs}:_only_labels(predicted_as_labels)"),
            },
            {**base, "out": out / "truth"},
            until=f"{job}:_Fit.summary",
        ),
    ]


def demo_cases(root: Path, out: Path) -> list[Case]:
    job = "posewarper.demonstration.run"
    made = f"{job}:write_dataset"
    hard = {
        "person_height": [0.5, 0.6],
        "speed": 1.0,
        "blur": 0.1,
        "shutter": 0.5,
        "shake": 0.01,
        "defocus": 0.2,
        "defocus_radius": 0.01,
        "occluders": 0.5,
        "crowding": 0.1,
        "contrast": 0.5,
        "pan": 0.02,
        "flicker": 0.01,
        "noise": 2.0,
        "leave": 0.1,
    }

    def later(self, title, outputs, work):
        """The step whose option is wanted; the others take minutes."""
        if title.endswith(("the single-frame network", "the warp head", "make pseudo-labels")):
            work()

    return [
        Case(
            {
                "out": On(out / "demo", f"{made}(out_dir)", out / "demo" / "videos"),
                "seed": On(3, f"{made}(seed)"),
                "train_videos": On(2, f"{made}(videos)", lambda v: v["train"] == 2),
                "val_videos": On(3, f"{made}(videos)", lambda v: v["val"] == 3),
                "frames": On(11, f"{made}(frames)"),
                "people": On(1, f"{made}(people)"),
                "restart": On(True, "posewarper.steps:StepFolder._prepare(restart)"),
                "progress": On(False, f"{made}(progress)"),
                **{
                    f"difficulty.{name}": On(
                        value,
                        f"{made}(difficulty)",
                        lambda d, n=name, v=value: (
                            getattr(d, n) == (tuple(v) if isinstance(v, list) else v)
                        ),
                    )
                    for name, value in hard.items()
                },
            },
            {"out": out / "plain"},
            until=made,
        ),
        Case(
            {
                "pose_samples": On(
                    50, f"{job}:LoopConfig.samples_per_epoch", lambda n: n in (5, 7)
                ),
                "warp_samples": On(
                    70, f"{job}:LoopConfig.samples_per_epoch", lambda n: n in (5, 7)
                ),
                "threshold": On(0.45, f"{job}:augment_labels(threshold)"),
                "seed": On(3, f"{job}:LoopConfig.seed"),
            },
            {"out": out / "later"},
            {
                "posewarper.steps:StepFolder.run": later,
                f"{job}:train": lambda *_, **__: None,
                f"{job}:load_coco": lambda path: None,
                f"{job}:_frames": lambda folder: None,
                f"{job}:_predictor": lambda run: None,
            },
            until=f"{job}:augment_labels",
        ),
    ]


TABLE: dict[str, Cases] = {"train": train_cases, "fit": fit_cases, "demo": demo_cases}


@pytest.mark.parametrize("command", TABLE)
def test_every_option_arrives(command, root, tmp_path, monkeypatch, capfd):
    check(command, TABLE[command], root, tmp_path, monkeypatch, capfd)


def test_every_command_has_a_table():
    assert sorted([*TABLE, *JOBS, *FILES]) == sorted(cli.COMMANDS)
