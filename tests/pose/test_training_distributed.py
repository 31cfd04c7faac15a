"""Two processes learn what one learns from the joint batches."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional

from posewarper.training.loading import SampleBatches
from posewarper.training.loop import Training
from posewarper.training.processes import SharedBatchNorm2d, join
from tests.pose.training_runs import HEAD, SOFTMAX, losses, run, weights, write_videos

SGD = {"kind": "sgd", "lr": 0.005}
# The last batch of an epoch has one sample, so that the first process has none.
UNEVEN = {"samples_per_epoch": 13}
CASES = {
    "pose": {"loop": UNEVEN, "optimizer": SGD},
    "pose, cross-entropy": {
        **SOFTMAX,
        "loop": {**UNEVEN, "accumulate": 2},
        "optimizer": {**SGD, "lr": 0.01, "max_norm": 1.0, "ema": 0.5},
    },
    "warp": {"stage": "warp", "loop": UNEVEN, "optimizer": SGD},
    "warp, skipped samples": {
        "stage": "warp",
        "data": {"missing": "skip"},
        "loop": UNEVEN,
        "optimizer": SGD,
    },
    "warp, batch statistics": {
        "stage": "warp",
        "model": {**HEAD, "backbone_batch_stats": True},
        "loop": UNEVEN,
        "optimizer": SGD,
    },
}


OWN_STATISTICS = {
    "optimizer": {**SGD, "ema": 0.5},
    "loop": {**UNEVEN, "sync_batch_norm": False},
}


def options_of(name, root, batch_size):
    options = {"stage": "pose", **CASES[name]}
    options["loop"] = {**options["loop"], "batch_size": batch_size}
    if "data" in options:
        options["data"] = {
            **options["data"],
            "images": root / "damaged",
            "val_images": root / "set",
        }
    if options["stage"] == "warp":
        options["init"] = root / "pose" / "best.pt"
    return options


def process(rank, root, port):
    """One of two: trains all cases."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    with join("cpu") as processes:
        results = {"failures": failures(root, rank), "own statistics": own_statistics(root)}
        for name in CASES:
            results[name] = run(root / "set", root / "two" / name, **options_of(name, root, 3))
        results["batch norm"] = shared_statistics(processes)
        results["stopped after"] = interrupted(root, rank)
        results["resumed"] = run(root / "set", root / "two" / "stop", **options_of("pose", root, 3))
    assert not dist.is_initialized()
    (root / f"results{rank}").write_bytes(pickle.dumps(results))


def own_statistics(root):
    """Every process normalises by its own statistics; those of the averages that are validated."""
    shown, validate = [], Training._validate

    def watched(self, batches):
        shown.append([buffer.clone() for buffer in self._shown().buffers()])
        return validate(self, batches)

    Training._validate = watched
    try:
        options = {**OWN_STATISTICS, "loop": {**OWN_STATISTICS["loop"], "batch_size": 3}}
        return run(root / "set", root / "two" / "own", **options), shown
    finally:
        Training._validate = validate


def failures(root, rank):
    """What both processes say where something fails in the second one only."""
    read, note = SampleBatches.__getitems__, Training._note
    messages = {}

    def unreadable(self, picks):
        validation = self.samples.augmentation is None
        error = "x.jpg: cut off" if validation == (failing == "validation") else ""
        return read(self, picks)._replace(error=error)

    def not_a_number(self, loss, *others):
        note(self, loss * float("nan"), *others)

    for failing in ("training", "validation", "loss"):
        if rank == 1 and failing == "loss":
            Training._note = not_a_number
        elif rank == 1:
            SampleBatches.__getitems__ = unreadable
        try:
            run(root / "set", root / "two" / failing, loop={"epochs": 1, "batch_size": 3})
        except ValueError as error:
            messages[failing] = str(error)
        finally:
            SampleBatches.__getitems__, Training._note = read, note
        assert not list((root / "two" / failing).glob("*.pt"))
    return messages


def interrupted(root, rank):
    """Only one of the processes hears the signal; both stop after the same step."""
    step, count = Training._step, 0

    def counted(self, batches, asked):
        nonlocal count
        count += 1
        if rank == 1 and count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batches, asked)

    Training._step = counted
    try:
        run(root / "set", root / "two" / "stop", **options_of("pose", root, 3))
    except KeyboardInterrupt:
        return count
    finally:
        Training._step = step
    return None


def shared_statistics(processes):
    """Gradients and statistics of normalised parts of a batch of 5."""
    x, layer = batch_norm_case()
    part = slice(0, 1) if processes.rank == 0 else slice(1, 5)
    shared = SharedBatchNorm2d(3, layer.eps, layer.momentum)
    shared.load_state_dict(layer.state_dict())
    own = x[part].clone().requires_grad_()
    output = shared(own)
    output.square().mul(torch.arange(4.0)).sum().backward()
    return output.detach(), own.grad, shared.weight.grad, shared.running_var


def batch_norm_case():
    generator = torch.Generator().manual_seed(1)
    layer = nn.BatchNorm2d(3)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(3, generator=generator))
        layer.bias.copy_(torch.rand(3, generator=generator))
    return 100 + torch.randn(5, 3, 2, 4, generator=generator), layer


def exact_batch_norm(self, x):
    """In float64: the rounding of torch's own statistics on a CPU changes the first layer's
    gradients by a thousandth here."""
    if self.training:
        self.num_batches_tracked += 1
    mean, variance = self.running_mean.double(), self.running_var.double()
    parameters = self.weight.double(), self.bias.double()
    output = functional.batch_norm(
        x.double(), mean, variance, *parameters, self.training, self.momentum, self.eps
    )
    if self.training:
        self.running_mean.copy_(mean)
        self.running_var.copy_(variance)
    return output.to(x.dtype)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder and results of two processes."""
    root = tmp_path_factory.mktemp("distributed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write_videos(root / "set")
    run(root / "set", root / "pose", loop={"epochs": 1})
    shutil.copytree(root / "set" / "images", root / "damaged" / "images")
    for frame in sorted((root / "damaged" / "images" / "train").rglob("*.jpg"))[::5]:
        frame.unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (root, port), nprocs=2)
    yield root, [pickle.loads((root / f"results{rank}").read_bytes()) for rank in range(2)]
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(trained, name, monkeypatch):
    root, results = trained
    monkeypatch.setattr(nn.BatchNorm2d, "forward", exact_batch_norm)
    options = options_of(name, root, 6)
    alone = run(root / "set", root / "one" / name, **options)
    for result in results:
        for one, other in zip(losses(alone), losses(result[name]), strict=True):
            assert one[:3] == other[:3]
            assert one[3] == pytest.approx(other[3], rel=1e-5)
            assert one[5] == pytest.approx(other[5], rel=1e-5)
            # a joint at the border of the circle may fall on either side of it
            assert (one[4], one[6]) == pytest.approx((other[4], other[6]), abs=0.02)
    options["optimizer"] = {**SGD, "lr": 1e-30}
    start = weights(run(root / "set", root / "none" / name, **options).final)
    one, two = weights(alone.final), weights(root / "two" / name / "final.pt")
    for key, tensor in one.items():
        # Rounding is small beside the way from the start; some parameters do not move at all.
        moved = (tensor - start[key]).float().norm()
        allowed = 1e-2 * moved + 1e-6 * tensor.float().norm() + 1e-8
        assert (two[key] - tensor).float().norm() <= allowed, key
    assert not torch.equal(one["conv1.weight"], start["conv1.weight"]) or "warp" in name
    assert "warp" not in name or not torch.equal(one["offsets1.weight"], start["offsets1.weight"])


def test_processes_stop_together_and_go_on(trained):
    root, results = trained
    assert [result["stopped after"] for result in results] == [3, 3]
    for result in results:
        assert losses(result["resumed"]) == losses(result["pose"])
    for key, tensor in weights(root / "two" / "pose" / "final.pt").items():
        assert torch.equal(tensor, weights(root / "two" / "stop" / "final.pt")[key]), key


def test_processes_fail_together(trained):
    for result in trained[1]:
        messages = result["failures"]
        assert messages["training"] == messages["validation"] == "x.jpg: cut off"
        assert messages["loss"].startswith("the loss is not finite in epoch 1, step")


def test_processes_with_their_own_statistics(trained):
    """Gradients are those of accumulated batches in one process, which are normalised alone, too;
    the running statistics, which are the first process's, are not compared.
    """
    root, results = trained
    options = {**OWN_STATISTICS, "loop": {**UNEVEN, "batch_size": 3, "accumulate": 2}}
    alone = run(root / "set", root / "one" / "own", **options)
    for result in results:
        for one, other in zip(losses(alone), losses(result["own statistics"][0]), strict=True):
            assert one[:3] == other[:3]
            assert one[3] == pytest.approx(other[3], rel=1e-4)
    one, two = weights(alone.final), weights(root / "two" / "own" / "final.pt")
    for key in one:
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-5, msg=key)
    first, second = (result["own statistics"][1] for result in results)
    assert len(first) == 2  # validations; all processes have shown the same model
    for buffers in zip(*first, strict=True), zip(*second, strict=True):
        assert any(not torch.equal(before, after) for before, after in buffers)
    for own, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))


def test_another_number_of_processes_is_refused(trained):
    root, _ = trained
    with pytest.raises(ValueError, match="samples per step, now there are 3"):
        run(root / "set", root / "two" / "pose", **options_of("pose", root, 3))


def test_statistics_of_all_processes(trained):
    x, layer = batch_norm_case()
    x, layer = x.double().requires_grad_(), layer.double()
    output = layer(x)
    output.square().mul(torch.arange(4.0)).sum().backward()
    parts = [result["batch norm"] for result in trained[1]]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]).double(), output, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]).double(), x.grad, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        sum(p[2] for p in parts).double(), layer.weight.grad, rtol=1e-4, atol=1e-4
    )
    for part in parts:
        torch.testing.assert_close(part[3].double(), layer.running_var, rtol=1e-4, atol=0)
