"""How runs end and go on: divergence, interrupts, prolonged and changed runs, what is left."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal

import pytest
import torch

from posewarper.models import HRNet, load_model
from posewarper.training import interrupts, loading
from posewarper.training.interrupts import Interrupts
from posewarper.training.loop import Training
from posewarper.training.progress import Sums
from tests.pose.training_runs import HEAD, losses, run, weights, write_videos

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "set"
    write_videos(folder)
    return folder


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """A finished run of two epochs of four steps."""
    return run(root, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def signal_in(monkeypatch):
    """Sends this process SIGINT at the start of the n-th call of a method of ``Training``."""

    def arrange(name, number):
        method, count = getattr(Training, name), 0

        def counted(self, *arguments):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGINT)
            return method(self, *arguments)

        monkeypatch.setattr(Training, name, counted)

    return arrange


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def position(folder):
    return torch.load(folder / "last.pt", weights_only=True)["position"]


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": {"kind": "sgd", "lr": 1e38}},
        {"optimizer": {"kind": "sgd", "lr": 1e38, "ema": 0.9}},
    ],
)
def test_divergence_in_the_last_step_leaves_nothing(root, tmp_path, options):
    with pytest.raises(ValueError, match=r"(model|validation loss) is not finite in epoch 1, step"):
        run(root, tmp_path, **options, loop={"epochs": 1, "samples_per_epoch": 8})
    assert not list(tmp_path.glob("*.pt")) and not (tmp_path / "log.csv").exists()


def test_divergence_leaves_the_files_of_before(root, whole, tmp_path, monkeypatch):
    run(root, tmp_path, loop={"epochs": 1})
    names = ["last.pt", "best.pt", "log.csv"]
    before = [(tmp_path / name).read_bytes() for name in names]
    with monkeypatch.context() as patch:
        move = Training._move
        patch.setattr(
            Training,
            "_move",
            lambda self, rate: move(self, [rate, math.inf][self.position.step == 3]),
        )
        with pytest.raises(ValueError, match="model is not finite in epoch 2, step 4"):
            run(root, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == before
    assert losses(run(root, tmp_path)) == losses(whole)


def test_interrupt_does_not_write_what_is_not_finite(root, tmp_path, signal_in, monkeypatch):
    move = Training._move
    monkeypatch.setattr(Training, "_move", lambda self, rate: move(self, math.inf))
    signal_in("_step", 1)
    with pytest.raises(ValueError, match="model is not finite in epoch 1, step 1"):
        run(root, tmp_path)
    assert not (tmp_path / "last.pt").exists()


def scores(monkeypatch, *found):
    """Validation finds so many of ten joints, or nothing to validate on."""
    left = iter(found)

    def validated(self, batches):
        number = next(left)
        if number is None:
            return Sums()
        return Sums(loss=1.0, denominator=1.0, found=number, labelled=10.0, samples=1.0)

    monkeypatch.setattr(Training, "_validate", validated)


def test_nothing_to_validate_on_is_not_the_best(root, tmp_path, monkeypatch):
    scores(monkeypatch, None, 0.0)
    run(root, tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert tuple(state["best"]) == (0.0, -1.0)
    assert load_model(tmp_path).origin["epoch"] == 2


def test_models_say_their_own_scores(root, tmp_path, monkeypatch, capsys):
    scores(monkeypatch, 9.0, 3.0)
    result = run(root, tmp_path)
    assert load_model(result.best).origin["validation"] == {"pck": 0.9}
    assert load_model(result.final).origin["validation"] == {"pck": 0.3}
    assert capsys.readouterr().out == f"best model: {result.best} (validation PCK 0.900)\n"


def test_final_is_the_model_after_the_last_epoch(root, tmp_path, monkeypatch):
    scores(monkeypatch, 9.0, 3.0)
    result = run(root, tmp_path)
    final = weights(result.final)
    assert not torch.equal(final["conv1.weight"], weights(result.best)["conv1.weight"])
    result.final.unlink()
    again = run(root, tmp_path)
    for name, tensor in weights(again.final).items():
        assert torch.equal(tensor, final[name]), name
    assert load_model(again.final).origin["validation"] == {"pck": 0.3}


def test_fewer_epochs_than_there_were(root, tmp_path, signal_in):
    signal_in("_step", 5)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path)
    assert position(tmp_path) == {"epoch": 1, "step": 1}
    with pytest.raises(
        ValueError, match=r"^loop.epochs: expected at least 2, as the run in .*got 1"
    ):
        run(root, tmp_path, loop={"epochs": 1})


def test_prolonged_run_has_no_final_model_until_its_end(root, tmp_path, signal_in):
    assert run(root, tmp_path, loop={"epochs": 1}).final.exists()
    signal_in("_step", 1)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path)
    assert not (tmp_path / "final.pt").exists()


@pytest.mark.parametrize(
    ("method", "number", "expected"),
    [
        ("_validate", 2, {"epoch": 1, "step": 4}),  # of the last epoch: broken off
        ("_found", 5, {"epoch": 0, "step": 4}),  # between the batches of the first validation
        ("_say", 2, {"epoch": 2, "step": 0}),  # too late to break anything off
    ],
)
def test_interrupt_near_the_end_of_an_epoch(
    root, whole, tmp_path, signal_in, method, number, expected
):
    signal_in(method, number)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path)
    assert position(tmp_path) == expected
    parts = run(root, tmp_path)
    assert losses(parts) == losses(whole)
    assert_same_weights(parts.final, whole.final)


def test_repeated_signals_stay_a_wish(monkeypatch):
    former = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts() as wish:
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            pytest.fail("the second signal came through")
        assert wish.asked
        monkeypatch.setattr(interrupts, "FORCE_AFTER", 0.0)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == former


def test_log_is_written_from_the_state(root, tmp_path):
    run(root, tmp_path, loop={"epochs": 1})
    log = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").write_text(log.splitlines()[0] + "\n")
    run(root, tmp_path, loop={"epochs": 1})
    assert (tmp_path / "log.csv").read_text() == log


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("field", ["bbox", "keypoints"])
def test_other_labels_are_refused(root, tmp_path, split, field):
    path = tmp_path / "labels.json"
    labels = json.loads((root / "annotations" / f"posetrack_{split}.json").read_text())
    path.write_text(json.dumps(labels))
    options = {"data": {split: path}, "loop": {"epochs": 1}}
    run(root, tmp_path / "run", **options)
    labels["annotations"][0][field][0] += 1
    path.write_text(json.dumps(labels))
    with pytest.raises(
        ValueError, match=f"other files, boxes or keypoints in data.{split}; --rest"
    ):
        run(root, tmp_path / "run", **options)


@pytest.mark.parametrize("wanted", [True, False])
def test_memory_layout(root, whole, tmp_path, monkeypatch, wanted):
    features, seen = HRNet.features, set()

    def watched(self, images):
        seen.add(images.is_contiguous(memory_format=torch.channels_last))
        return features(self, images)

    monkeypatch.setattr(HRNet, "features", watched)
    loop = {"epochs": 1, "samples_per_epoch": 8, "channels_last": wanted}
    for stage, init in (("pose", None), ("warp", whole.folder)):
        run(root, tmp_path / stage, stage, init, loop=loop)
        assert seen == {wanted}
        seen.clear()


def test_cache_holds_what_it_may(root, tmp_path, monkeypatch):
    made, source = [], loading.FrameSource

    def watched(*arguments, cached_frames, **options):
        made.append(cached_frames)
        return source(*arguments, cached_frames=cached_frames, **options)

    monkeypatch.setattr(loading, "FrameSource", watched)
    loop = {"epochs": 1, "samples_per_epoch": 8}
    run(root, tmp_path / "a", data={"cache_mb": 0}, loop=loop)
    run(root, tmp_path / "b", data={"cache_mb": 1}, loop=loop)
    assert made == [0, 0, 25, 25]  # of 96 x 72 pixels in half a MiB


def _wait_as_worker(ready):
    loading._start_worker(0)
    ready.set()
    for _ in range(6000):  # one long wait would miss a signal that comes just before it
        signal.sigtimedwait([], 0.01)


def test_workers_outlive_a_signal_but_not_for_long(monkeypatch):
    monkeypatch.setattr(loading, "_GRACE", 0.5)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_wait_as_worker, args=(ready,))
    worker.start()
    try:
        assert ready.wait(20)
        os.kill(worker.pid, signal.SIGINT)
        worker.terminate()
        worker.join(0.1)
        assert worker.is_alive()  # the step that is under way still needs it
        worker.join(20)
        assert worker.exitcode == -signal.SIGALRM
    finally:
        worker.kill()


def test_head_of_the_warper_goes_on(root, whole, tmp_path):
    """Unless a new one is asked for."""
    first = run(root, tmp_path / "first", "warp", whole.folder)
    loop, slow = {"epochs": 1, "samples_per_epoch": 8}, {"lr": 1e-12}
    names = ("offsets1.weight", "offset_feats.0.conv1.weight", "deform_conv3.weight")

    def moved(name, model):
        result = run(
            root, tmp_path / name, "warp", first.best, model=model, optimizer=slow, loop=loop
        )
        after = weights(result.final)
        assert load_model(result.final).config.dilations == (1, 2, 4)
        return [float((after[n] - weights(first.best)[n]).abs().max()) for n in names]

    assert max(moved("as it is", {})) < 1e-10
    assert max(moved("same sizes", HEAD)) < 1e-10
    assert min(moved("new", {"reset_head": True})) > 1e-6
    with pytest.raises(
        ValueError, match=r"model.dilations: expected \(1, 2, 4\), .*first/best.pt has.*reset_head"
    ):
        moved("other", {"dilations": (1, 2)})
    other = {"dilations": (1, 2), "head_blocks": 1, "reset_head": True}
    result = run(root, tmp_path / "other", "warp", first.best, model=other, loop=loop)
    config = load_model(result.final).config
    assert (config.dilations, config.head_blocks, config.head_width) == ((1, 2), 1, 16)
