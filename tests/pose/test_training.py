"""Runs of training: files, exact resuming, starting points, frozen backbone, damaged frames."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
from dataclasses import replace

import pytest
import torch
import yaml
from torch.nn import Module

from posewarper.data.video import FrameError
from posewarper.models import HRNet, PoseWarper, load_model, save_checkpoint
from posewarper.training.loop import Training
from tests.pose.training_runs import BACKBONE, HEAD, SOFTMAX, losses, run, weights, write_videos

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "set"
    write_videos(folder)
    return folder


@pytest.fixture(scope="module")
def pose(root, tmp_path_factory):
    """A finished run of stage "pose"."""
    return run(root, tmp_path_factory.mktemp("runs") / "pose")


@pytest.fixture
def interrupt(monkeypatch):
    """Sends this process a signal during the n-th step from now on."""

    def arrange(number, signal_number=signal.SIGINT):
        step = Training._step
        count = 0

        def counted(self, batches, asked):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal_number)
            return step(self, batches, asked)

        monkeypatch.setattr(Training, "_step", counted)

    return arrange


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_files_of_a_run(root, pose):
    folder = pose.folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["last.pt", "best.pt", "final.pt", "config.yaml", "versions.json", "log.csv", "tensorboard"]
    )
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["val_pck"]) == pose.history[1]["val_pck"]
    assert float(rows[0]["samples_per_second"]) > 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["width"] == 8 and config["data"]["crop_wh"] == [64, 96]
    assert json.loads((folder / "versions.json").read_text())["torch"].startswith("2.")
    assert list((folder / "tensorboard").glob("events*"))
    model = load_model(folder)
    assert model.crop_wh == (64, 96) and model.sigma == 1.5 and not model.warps
    assert model.origin["configuration"] == config
    assert model.origin["people_per_frame"] == 2
    assert pose.pck == max(row["val_pck"] for row in pose.history)


def test_training_lowers_the_loss(root, tmp_path):
    result = run(
        root, tmp_path / "run", **SOFTMAX, val=False,
        optimizer={"kind": "adamw", "lr": 1e-2}, loop={"epochs": 6, "precision": "bf16"},
    )  # fmt: skip
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"] - 0.3
    assert result.history[-1]["train_pck"] > result.history[0]["train_pck"]
    assert result.pck is None  # without validation the last model is the best
    assert_same_weights(result.best, result.final)


CASES = {
    "middle of an epoch": (2, {}),
    "last step of an epoch": (4, {}),
    "accumulation, average, bfloat16": (
        7,
        {
            **SOFTMAX,
            "loop": {"batch_size": 3, "accumulate": 2, "precision": "bf16", "epochs": 2},
            "optimizer": {"kind": "adamw", "ema": 0.9, "weight_decay": 0.1, "max_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup": 0.2},
        },
    ),
    "samples per epoch, momentum": (
        4,
        {
            "loop": {"samples_per_epoch": 37, "epochs": 2},
            "optimizer": {"kind": "sgd", "lr": 0.1, "nesterov": True},
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_is_the_same_bit_by_bit(root, tmp_path, interrupt, case):
    number, options = CASES[case]
    whole = run(root, tmp_path / "whole", **options)
    interrupt(number)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "parts", **options)
    assert not (tmp_path / "parts" / "final.pt").exists()
    state = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)
    per_epoch = whole.history[0]["step"]
    epoch, step = divmod(number, per_epoch)
    # after the last step of an epoch its validation is still to come
    assert state["position"] == (
        {"epoch": epoch, "step": step} if step else {"epoch": epoch - 1, "step": per_epoch}
    )
    parts = run(root, tmp_path / "parts", **options)
    assert losses(parts) == losses(whole)
    assert_same_weights(whole.final, parts.final)
    assert_same_weights(whole.best, parts.best)
    assert len((tmp_path / "parts" / "log.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_warp_run_is_the_same_bit_by_bit(root, pose, tmp_path, interrupt, workers):
    whole = run(root, tmp_path / "whole", "warp", pose.folder)
    interrupt(5, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "parts", "warp", pose.folder, data={"workers": workers})
    state = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)
    assert state["position"] == {"epoch": 1, "step": 1}
    parts = run(root, tmp_path / "parts", "warp", pose.folder)  # workers may change
    assert losses(parts) == losses(whole)
    assert_same_weights(whole.final, parts.final)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_finished_run_does_nothing_and_can_be_prolonged(root, pose, tmp_path):
    short = run(root, tmp_path / "run", loop={"epochs": 1})
    before = (tmp_path / "run" / "final.pt").stat().st_mtime_ns
    again = run(root, tmp_path / "run", loop={"epochs": 1})
    assert losses(again) == losses(short)
    assert (tmp_path / "run" / "final.pt").stat().st_mtime_ns == before
    longer = run(root, tmp_path / "run", loop={"epochs": 2})
    assert losses(longer) == losses(pose)
    assert_same_weights(longer.final, pose.final)


def test_another_configuration_is_refused(root, tmp_path):
    run(root, tmp_path, loop={"epochs": 1})
    with pytest.raises(ValueError, match=r"optimizer.lr: 0.001 -> 0.002") as error:
        run(root, tmp_path, loop={"epochs": 1}, optimizer={"lr": 2e-3})
    assert "loop" not in str(error.value)
    with pytest.raises(ValueError, match=r"loop.seed: 0 -> 1"):
        run(root, tmp_path, loop={"epochs": 1, "seed": 1})
    result = run(root, tmp_path, loop={"epochs": 1, "seed": 1}, restart=True)
    assert len(result.history) == 1
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["loop"]["seed"] == 1


def test_longer_run_is_refused_where_the_schedule_would_change(root, tmp_path):
    options = {"schedule": {"kind": "cosine"}}
    run(root, tmp_path, loop={"epochs": 1}, **options)
    with pytest.raises(ValueError, match=r"loop.epochs: 1 -> 2"):
        run(root, tmp_path, loop={"epochs": 2}, **options)


def test_other_data_under_the_same_name_are_refused(root, tmp_path):
    labels = json.loads((root / "annotations" / "posetrack_train.json").read_text())
    path = tmp_path / "train.json"
    path.write_text(json.dumps(labels))
    run(root, tmp_path / "run", data={"train": path}, loop={"epochs": 1})
    labels["annotations"].pop()
    path.write_text(json.dumps(labels))
    with pytest.raises(ValueError, match=r"samples of data.train, now there are"):
        run(root, tmp_path / "run", data={"train": path}, loop={"epochs": 2})


def test_damaged_state_is_named(root, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"last.pt"):
        run(root, tmp_path)


def test_warp_stage_keeps_the_backbone(root, pose, tmp_path):
    result = run(root, tmp_path / "warp", "warp", pose.folder)
    before, after = weights(pose.best), weights(result.final)
    for name, tensor in before.items():  # running statistics too
        assert torch.equal(tensor, after[name]), name
    head = load_model(result.folder)
    assert isinstance(head.network, PoseWarper) and head.crop_wh == (64, 96) and head.sigma == 1.5
    assert head.config.dilations == (1, 2, 4) and head.config.head_width == 16
    assert all(weight.abs().max() > 0 for weight in (c.weight for c in head.network.offsets))


def test_frozen_backbone_records_nothing_for_gradients(root, pose, tmp_path, monkeypatch):
    saved, inside, passes = [], False, 0
    heatmaps = HRNet.forward

    def watched(self, images):
        nonlocal inside, passes
        inside, passes = True, passes + 1
        result = heatmaps(self, images)
        inside = False
        assert not result.requires_grad and not result.is_inference()
        return result

    def note(tensor):
        saved.append(inside)
        return tensor

    monkeypatch.setattr(HRNet, "forward", watched)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(root, tmp_path / "warp", "warp", pose.folder, val=False, loop={"epochs": 1})
    assert passes and saved and not any(saved)


def test_backbone_moves_if_told(root, pose, tmp_path):
    batch = run(
        root, tmp_path / "a", "warp", pose.folder, model={**HEAD, "backbone_batch_stats": True}
    )
    free = run(root, tmp_path / "b", "warp", pose.folder, model={**HEAD, "freeze_backbone": False})
    before = weights(pose.best)
    assert torch.equal(before["conv1.weight"], weights(batch.final)["conv1.weight"])
    assert not torch.equal(before["bn1.running_mean"], weights(batch.final)["bn1.running_mean"])
    assert not torch.equal(before["conv1.weight"], weights(free.final)["conv1.weight"])


def test_starting_points(root, pose, tmp_path):
    one = {"epochs": 1, "samples_per_epoch": 8}
    save_checkpoint(load_model(pose.best).network, tmp_path / "bare.pth")  # as 2019 wrote them
    result = run(
        root, tmp_path / "bare", "warp", tmp_path / "bare.pth", loop=one, val=False,
        data={"crop_wh": (64, 96), "sigma": 1.5},
    )  # fmt: skip
    assert load_model(result.folder).crop_wh == (64, 96)
    more = run(root, tmp_path / "more", init=pose.best, optimizer={"lr": 1e-12}, loop=one)
    for name, tensor in weights(pose.best).items():
        if "weight" in name:
            torch.testing.assert_close(weights(more.final)[name], tensor, rtol=0, atol=1e-9)
    # weights alone do not tell dilations; those of the option are not the file's if the head is new
    wide = replace(load_model(pose.best).config, head_width=16, head_blocks=1, dilations=(1,) * 5)
    save_checkpoint(PoseWarper(wide), tmp_path / "five.pth")
    options = {"data": {"crop_wh": (64, 96), "sigma": 1.5}, "loop": one, "val": False}
    with pytest.raises(ValueError, match="dilations: expected 5"):
        run(root, tmp_path / "n", "warp", tmp_path / "five.pth", **options, model=HEAD)
    new = {**HEAD, "reset_head": True}
    new = run(root, tmp_path / "new", "warp", tmp_path / "five.pth", **options, model=new)
    assert load_model(new.best).config.dilations == (1, 2, 4)
    options["model"] = {"dilations": (1, 2, 4)}  # of no use here, and no hindrance
    assert not load_model(
        run(root, tmp_path / "p", init=tmp_path / "five.pth", **options).best
    ).warps
    # a warper is as good as a backbone: its head is left out
    back = run(root, tmp_path / "back", init=result.best, optimizer={"lr": 1e-12}, loop=one)
    assert not load_model(back.folder).warps


def test_other_joints_take_the_features_only(root, pose, tmp_path):
    skeleton = tmp_path / "arms.yaml"
    skeleton.write_text("joints: [left_wrist, right_wrist, left_elbow]\n")
    result = run(
        root, tmp_path / "run", init=pose.folder, init_part="features", optimizer={"lr": 1e-12},
        data={"skeleton": str(skeleton)}, loop={"epochs": 1, "samples_per_epoch": 8},
    )  # fmt: skip
    assert load_model(result.folder).skeleton.joints == ("left_wrist", "right_wrist", "left_elbow")
    assert weights(result.final)["final_layer.weight"].shape[0] == 3
    torch.testing.assert_close(
        weights(result.final)["conv2.weight"], weights(pose.best)["conv2.weight"], rtol=0, atol=1e-9
    )
    with pytest.raises(ValueError, match="init_part features keeps all but the last layer"):
        run(root, tmp_path / "b", init=pose.folder, data={"skeleton": str(skeleton)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": {"crop_wh": (96, 128)}}, r"data.crop_wh: expected \(64, 96\), which .*best.pt"),
        ({"data": {"sigma": 3.0}}, "data.sigma: expected 1.5"),
        ({"model": {**BACKBONE, "width": 16}}, "model.width: expected 8, which .*best.pt has"),
    ],
)
def test_contradictions_of_the_model(root, pose, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(root, tmp_path / "warp", "warp", pose.folder, **options)
    assert not (tmp_path / "warp").exists()


def damage(root, tmp_path):
    """A copy of the videos with a training frame cut off."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "annotations").symlink_to(root / "annotations")
    for path in sorted((root / "images").rglob("*.jpg")):
        copy = folder / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(path)
    frame = sorted((folder / "images" / "train").rglob("000003.jpg"))[0]
    content = frame.read_bytes()
    frame.unlink()
    frame.write_bytes(content[:200])
    return folder, frame


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_frame_stops_training_and_keeps_the_state(root, tmp_path, workers):
    run(root, tmp_path / "run", loop={"epochs": 1})
    before = (tmp_path / "run" / "last.pt").read_bytes()
    damaged, frame = damage(root, tmp_path)
    with pytest.raises(FrameError, match=f"^{frame}: the image is cut off[^\n]*$"):
        run(
            root, tmp_path / "run", loop={"epochs": 2},
            data={"images": damaged, "val_images": root, "workers": workers},
        )  # fmt: skip
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_samples_are_counted_and_named(root, tmp_path, caplog, workers):
    damaged, frame = damage(root, tmp_path)
    with caplog.at_level(logging.INFO):
        result = run(
            root, tmp_path / "run", val=False, loop={"epochs": 2},
            data={"images": damaged, "missing": "skip", "workers": workers},
        )  # fmt: skip
    messages = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert sum(str(frame.relative_to(damaged)) in message for message in messages) == 1
    counts = [m for m in messages if "left out" in m]
    assert len(counts) == 2 and all(" 2 samples" in m for m in counts)  # two people, two epochs
    assert result.epochs == 2


def test_loss_that_is_not_finite_stops(root, tmp_path):
    with pytest.raises(ValueError, match="loss is not finite in epoch"):
        run(root, tmp_path, optimizer={"kind": "sgd", "lr": 1e20}, loop={"epochs": 4})


def test_average_is_what_is_saved(root, tmp_path):
    plain = run(root, tmp_path / "a")
    averaged = run(root, tmp_path / "b", optimizer={"ema": 0.99})
    # the path is the same, what is shown of it is not
    assert [row["train_loss"] for row in plain.history] == [
        row["train_loss"] for row in averaged.history
    ]
    assert not torch.equal(
        weights(plain.final)["conv2.weight"], weights(averaged.final)["conv2.weight"]
    )


def test_accumulated_batches_are_one_batch(root, pose, tmp_path, monkeypatch):
    """With fixed statistics the gradient of 2 x 4 samples is that of 8, also where an epoch ends
    with fewer."""
    monkeypatch.setattr(torch.nn.BatchNorm2d, "train", lambda norm, mode: Module.train(norm, False))

    def trained(name, **loop):
        return run(
            root, tmp_path / name, "warp", pose.folder, val=False, model={**HEAD, "head_blocks": 1},
            optimizer={"kind": "sgd", "lr": 0.1}, loop={**loop, "samples_per_epoch": 19},
        )  # fmt: skip

    a, b = trained("a", batch_size=8), trained("b", batch_size=4, accumulate=2)
    for one, other in zip(losses(a), losses(b), strict=True):
        assert one[3] == pytest.approx(other[3], rel=1e-5)
    for name, tensor in weights(a.final).items():
        torch.testing.assert_close(tensor, weights(b.final)[name], rtol=1e-4, atol=1e-7, msg=name)


def test_first_loss_of_the_warp_is_that_of_the_backbone(root, pose, tmp_path):
    """At the start the warp is the identity: with delta 0 its loss is the single-frame loss."""
    warp = run(
        root, tmp_path, "warp", pose.folder, data={"delta": 0}, optimizer={"lr": 1e-12},
        loop={"epochs": 1},
    )  # fmt: skip
    best = max(pose.history, key=lambda row: (row["val_pck"], -row["val_loss"]))
    assert warp.history[0]["val_loss"] == pytest.approx(best["val_loss"], rel=1e-5)
    assert warp.history[0]["val_pck"] == best["val_pck"]
