"""The loop: steps, epochs, validation, and all that has to survive an interrupt."""

from __future__ import annotations

import contextlib
import math
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from posewarper.data.video import FrameError
from posewarper.models import HEATMAP_STRIDE, HRNet, PoseModel, PoseWarper, channels_last
from posewarper.models.devices import autocast
from posewarper.models.pose_model import BEST
from posewarper.progress import progress_bar
from posewarper.training.config import RunConfig
from posewarper.training.frozen import FrozenBackbone
from posewarper.training.interrupts import Interrupts
from posewarper.training.loading import Batch, Batches, check_batch
from posewarper.training.losses import HeatmapLoss, joints_found
from posewarper.training.maps import learned_part
from posewarper.training.optimization import (
    is_finite,
    learning_rate,
    make_optimizer,
    moving_average,
)
from posewarper.training.processes import Processes, share_batch_norm, share_gradients
from posewarper.training.progress import FrameProblems, Position, Sums, log
from posewarper.training.run_folder import FINAL, RunFolder, check_data

_LOOK_EVERY = 20  # steps between looks at results, each of which waits for the GPU


class Training:
    """One run: the state that an interrupt must not lose, and the loop over it.

    Args:
        config: the run.
        model: where it starts; its network is trained in place.
        train: batches to learn from.
        val: batches to validate on, if there are any.
        processes: this one among all.
        folder: where to write; None in all processes but the first.
        progress: show a bar where there is a terminal.
    """

    def __init__(
        self,
        config: RunConfig,
        model: PoseModel,
        train: Batches,
        val: Batches | None,
        processes: Processes,
        folder: RunFolder | None,
        progress: bool = True,
    ):
        self.config, self.model, self.train_set, self.val_set = config, model, train, val
        self.processes, self.folder, self.progress = processes, folder, progress
        self.loss = HeatmapLoss(config.loss, model.skeleton)
        self.steps_per_epoch = -(-len(train) // config.loop.accumulate)
        self.position, self.sums = Position(), Sums()
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, float] | None = None  # PCK, -loss
        self._pending: list[tuple[Tensor, float, int]] = []
        self._data = {  # has to be the same for steps and scores to mean the same
            "samples of data.train": len(train.samples),
            "samples per step": config.loop.batch_size * config.loop.accumulate * processes.count,
            "fingerprint of data.train": train.fingerprint(),
            "fingerprint of data.val": None if val is None else val.fingerprint(),
        }
        self._problems = FrameProblems()
        self._interrupts = Interrupts()
        self._build()

    def _build(self) -> None:
        config, device = self.config, self.processes.device
        network = self.model.network
        if isinstance(network, PoseWarper):
            network.backbone_batch_stats = config.model.backbone_batch_stats
            network.freeze_backbone(config.model.freeze_backbone)
        self.shared_norm = self.processes.count > 1 and config.loop.sync_batch_norm
        self._warps = isinstance(network, PoseWarper)
        self._fixed = self._warps and config.backbone_is_fixed
        if self.shared_norm:  # not in a backbone that is fixed, which will be folded
            normalised = network.get_submodule("offset_feats") if self._fixed else network
            share_batch_norm(normalised, device)
        network.to(device)
        if config.loop.channels_last:
            channels_last(network)
        network.train()
        self.network = network
        self.optimizer = make_optimizer(config.optimizer, network)
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=config.loop.precision == "fp16" and device.type == "cuda"
        )
        ema = config.optimizer.ema
        self.average = None if ema is None else moving_average(network, ema)
        self._frozen: FrozenBackbone | None = None
        self.maps: nn.Module = learned_part(network, self._fixed, config.loop.channels_last)
        if config.loop.compile:
            self.maps = torch.compile(self.maps)  # type: ignore[assignment]
        if self.processes.count > 1:
            self.maps = share_gradients(self.maps, device)

    # The loop.

    def run(self) -> None:
        """From the present position to the end.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; the step was finished and ``last.pt`` written.
            ValueError: a frame cannot be read, or the loss or the model is not finite.
        """
        epochs = self.config.loop.epochs
        total = epochs * self.steps_per_epoch
        done = self.position.epoch * self.steps_per_epoch + self.position.step
        shown = self.progress and self.processes.is_first
        if self.folder is not None:  # of a shorter run that goes on
            (self.folder.path / FINAL).unlink(missing_ok=True)
        try:
            with (
                self._interrupts,
                progress_bar(shown, total=total, initial=done, unit="step") as bar,
            ):
                while self.position.epoch < epochs:
                    self._epoch(bar)
                if self._asked():  # after the last look; all is written
                    raise KeyboardInterrupt
        finally:
            if self.folder is not None:
                self.folder.close()

    def _epoch(self, bar: tqdm[Any]) -> None:
        epoch, started = self.position.epoch, time.perf_counter()
        before = self.sums.seconds
        self.network.train()
        accumulate = self.config.loop.accumulate
        batches = self.train_set.of_epoch(epoch, self.position.step * accumulate)
        while self.position.step < self.steps_per_epoch:
            agreed = self._step(list(islice(batches, accumulate)), self._interrupts.asked)
            # Alone, at once; several processes have to stop after the same step.
            stop = agreed if self.processes.count > 1 else self._interrupts.asked
            self.position.step += 1
            self.sums.seconds = before + time.perf_counter() - started
            bar.update()
            if stop or self.position.step % _LOOK_EVERY == 0:
                self._look(bar)
            if stop:
                self._stop_here()
        self._look(bar)
        self.processes.copy_buffers(self.network)
        if self.average is not None:
            self.processes.copy_buffers(self.average.module)
        sums = self.sums.of_all(self.processes)
        if sums.samples + sums.left_out == 0 or (sums.samples and not sums.labelled):
            raise ValueError(
                f"epoch {epoch + 1}: no labelled joint of {self.config.data.train} lies in a crop: "
                "there is nothing to learn; look at the boxes and data.padding"
            )
        last = epoch + 1 == self.config.loop.epochs
        val: Sums | None = None
        if self.val_set is not None and (
            last or (epoch + 1) % self.config.loop.validate_every == 0
        ):
            val = self._validate(self.val_set)
            sums.seconds = before + time.perf_counter() - started
        self._report_problems(sums, val)
        self._insist_on_numbers(val)
        rate = self._rate(self.position.step - 1)
        self._finish_epoch(sums, val, rate)

    def _step(self, batches: list[Batch], asked: bool) -> bool:
        """One step of the optimiser; whether any process was asked to stop before it."""
        device, many = self.processes.device, self.processes.count
        own = [self.loss.denominator(batch.weight, batch.target) for batch in batches]
        errors = [batch.error for batch in batches if batch.error]
        denominator, stopping, failed = self.processes.sums(
            [sum(own), float(asked), float(len(errors))]
        )
        if failed:  # all processes end, none waits for another
            raise FrameError(self.processes.first_text(errors[0] if errors else ""))
        self.optimizer.zero_grad(set_to_none=True)
        for number, (batch, share) in enumerate(zip(batches, own, strict=True), 1):
            self._problems.hear(batch.problems)
            self.sums.left_out += batch.left_out
            if denominator == 0:  # nothing to learn from, in any process
                continue
            batch = batch.to(device)
            with self._gradients_shared(number == len(batches)):
                output = self._output(batch)
                loss = self.loss(output, batch.target, batch.weight)
                # DistributedDataParallel takes the mean over processes; the sum is wanted.
                self.scaler.scale(loss * (many / denominator)).backward()
            self._note(loss, output, batch, share)
        if denominator > 0:
            self._move(self._rate(self.position.step))
        return stopping > 0

    def _output(self, batch: Batch) -> Tensor:
        """Of the network in training; a process without samples takes part with none."""
        check_batch(self.model, len(batch.target), self.shared_norm)
        empty = len(batch.target) == 0 and not self.shared_norm
        if empty:  # statistics of nothing would be NaN
            self.network.eval()
        with self._autocast():
            output = self.maps(self._given(batch, self.train_set))
        if empty:
            self.network.train()
        return output if self.loss.kind == "cross_entropy" else self._heatmaps(output)

    def _given(self, batch: Batch, of: Batches) -> Tensor:
        """What the part of the network that learns is given: crops, or heatmaps of a backbone that
        is fixed.
        """
        if not self._fixed:
            return batch.crops
        if self._frozen is None:  # not before: a run that goes on is given its weights late
            loop, device = self.config.loop, self.processes.device
            self._frozen = FrozenBackbone(self.model.backbone, device, loop)
        return self._frozen.pairs(batch, of.seen)

    def _heatmaps(self, output: Tensor) -> Tensor:
        """Of what the network gave: warped maps are heatmaps already."""
        return output.float() if self._warps else self.model.backbone.heatmaps_of(output.float())

    def _move(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.config.optimizer.max_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimizer.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)

    def _rate(self, step: int) -> float:
        """The learning rate of a step of this epoch."""
        config, per_epoch = self.config, self.steps_per_epoch
        step = self.position.epoch * per_epoch + step
        return learning_rate(
            config.schedule, config.optimizer.lr, step, per_epoch, config.loop.epochs
        )

    def _gradients_shared(self, last: bool) -> AbstractContextManager[object]:
        """Processes exchange gradients after the last of the accumulated batches only."""
        if isinstance(self.maps, DistributedDataParallel) and not last:
            return self.maps.no_sync()
        return contextlib.nullcontext()

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self.processes.device, self.config.loop.precision)

    # Numbers.

    def _note(self, loss: Tensor, output: Tensor, batch: Batch, denominator: float) -> None:
        """Remember the results of a batch; nobody waits for them here."""
        heatmaps = output.detach()
        if self.loss.kind == "cross_entropy":
            heatmaps = self._heatmaps(heatmaps)
        found, labelled = self._found(heatmaps, batch)
        numbers = torch.stack([loss.detach(), found, labelled])
        self._pending.append((numbers, denominator, len(batch.target)))

    def _found(self, heatmaps: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        size = max(self.model.crop_wh) / self.model.padding
        return joints_found(heatmaps, batch.joints, batch.weight, HEATMAP_STRIDE, size)

    def _add_up(self) -> None:
        """Sums over what is pending, one by one, so that an interrupt changes no digit."""
        if not self._pending:
            return
        numbers = torch.stack([p[0] for p in self._pending]).tolist()
        for (loss, found, labelled), (_, denominator, samples) in zip(
            numbers, self._pending, strict=True
        ):
            self.sums.loss += loss
            self.sums.found += found
            self.sums.labelled += labelled
            self.sums.denominator += denominator
            self.sums.samples += samples
        self._pending.clear()

    def _look(self, bar: tqdm[Any]) -> None:
        self._add_up()
        sums, position = self.sums, self.position
        self._insist("loss", math.isfinite(sums.loss))
        speed = self.processes.count * sums.samples / max(sums.seconds, 1e-9)
        bar.set_postfix_str(
            f"epoch {position.epoch + 1}/{self.config.loop.epochs}, loss {sums.mean_loss:.3g}, "
            f"PCK {sums.pck:.3f}, {speed:.0f} samples/s, lr {self._rate(position.step - 1):.2g}"
        )

    def _insist(self, what: str, finite: bool) -> None:
        """Ends all processes if something is not finite in one of them."""
        if self.processes.any(not finite)[0]:
            raise ValueError(
                f"the {what} is not finite in epoch {self.position.epoch + 1}, step "
                f"{self.position.step}: lower optimizer.lr, set optimizer.max_norm, or use another "
                "loop.precision; what was written before is kept"
            )

    def _insist_on_numbers(self, val: Sums | None = None) -> None:
        """Before anything is written: a model that is not finite would take the place of a good
        one, and no run could go on from it.
        """
        self._insist("model", is_finite(self.network, self._shown()))
        self._insist("validation loss", val is None or math.isfinite(val.loss))

    def _asked(self) -> bool:
        """Whether any process was asked to stop."""
        return self.processes.any(self._interrupts.asked)[0]

    @torch.no_grad()
    def _validate(self, batches: Batches) -> Sums:
        network = self._shown()
        network.eval()
        maps = learned_part(network, self._fixed, self.config.loop.channels_last)
        sums = Sums()
        for batch in batches.of_epoch(0):  # of all processes the same number
            stop, failed = self.processes.any(self._interrupts.asked, batch.error)
            if failed:
                raise FrameError(self.processes.first_text(batch.error))
            if stop:
                self._stop_here()
            self._problems.hear(batch.problems)
            sums.left_out += batch.left_out
            if len(batch.target) == 0:
                continue
            batch = batch.to(self.processes.device)
            with self._autocast():
                output = maps(self._given(batch, batches)).float()
            heatmaps = self._heatmaps(output)
            compared = output if self.loss.kind == "cross_entropy" else heatmaps
            sums.loss += float(self.loss(compared, batch.target, batch.weight))
            sums.denominator += self.loss.denominator(batch.weight.cpu(), batch.target.cpu())
            found, labelled = self._found(heatmaps, batch)
            sums.found += float(found)
            sums.labelled += float(labelled)
            sums.samples += len(batch.target)
        self.network.train()
        return sums.of_all(self.processes)

    # Ends.

    def _finish_epoch(self, sums: Sums, val: Sums | None, rate: float) -> None:
        epoch = self.position.epoch + 1
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": epoch * self.steps_per_epoch,
            "lr": rate,
            "train_loss": sums.mean_loss,
            "train_pck": sums.pck,
            "val_loss": "" if val is None else val.mean_loss,
            "val_pck": "" if val is None else val.pck,
            "samples_per_second": sums.samples / max(self.sums.seconds, 1e-9),
            "seconds": sums.seconds,
        }
        self.history.append(row)
        better = self.val_set is None
        if val is not None:
            # Nothing compares as greater than NaN: it would stay the best for ever.
            score = (
                val.pck if val.labelled else 0.0,
                -val.mean_loss if val.denominator else -math.inf,
            )
            if self.best is None or score > self.best:
                self.best, better = score, True
        self.position, self.sums = Position(epoch, 0), Sums()
        self._say(row)
        if self.folder is not None:
            model = self.finished_model()
            if better:
                self.folder.save_model(model, BEST)
            if epoch == self.config.loop.epochs:
                self.folder.save_model(model, FINAL)
            self.folder.save_state(self.state())
            self.folder.write_log(self.history)
            self.folder.add_events(row)
        self.processes.wait()

    def write_final(self) -> None:
        """``final.pt`` of a run that is at its end without one."""
        assert self.folder is not None
        if self.best is None:  # the newest is the best
            self.folder.save_model(self.finished_model(), BEST)
        self.folder.save_model(self.finished_model(), FINAL)

    def _stop_here(self) -> None:
        """Write the state and end; a whole epoch may still lack its validation."""
        self._insist_on_numbers()
        self.sums = self.sums.of_all(self.processes)
        if self.folder is not None:
            self.folder.save_state(self.state())
            log.warning(
                "interrupted after step %d of epoch %d; the same command goes on from there",
                self.position.step,
                self.position.epoch + 1,
            )
        self.processes.wait()
        raise KeyboardInterrupt

    def _say(self, row: dict[str, Any]) -> None:
        if not self.processes.is_first:
            return
        text = f"epoch {row['epoch']}: loss {row['train_loss']:.4g}, PCK {row['train_pck']:.3f}"
        if row["val_pck"] != "":
            text += f"; validation: loss {row['val_loss']:.4g}, PCK {row['val_pck']:.3f}"
        log.info("%s", text)

    def _report_problems(self, sums: Sums, val: Sums | None) -> None:
        """Frames that could not be read, at the end of the epoch."""
        self._problems.report(self.config.data.missing)
        left_out = {"training": sums.left_out, "validation": val.left_out if val else 0}
        for name, count in left_out.items():
            if count and self.processes.is_first:
                log.warning(
                    "epoch %d: %d samples of %s left out, whose frames are missing or damaged",
                    self.position.epoch + 1, count, name,
                )  # fmt: skip

    def _shown(self) -> HRNet | PoseWarper:
        """The network to validate and to save: the moving average, if there is one."""
        if self.average is None:
            return self.network
        shown = self.average.module
        assert isinstance(shown, HRNet | PoseWarper)
        return shown

    def finished_model(self) -> PoseModel:
        """The model after the last whole epoch, for prediction."""
        pck = self.history[-1]["val_pck"]
        people = self.train_set.samples.dataset.people
        origin = {
            "configuration": self.config.plain(),
            "people_per_frame": int(np.bincount(people.frame).max(initial=0)),
            "epoch": self.position.epoch,
            "validation": None if pck == "" else {"pck": pck},
        }
        return replace(self.model, network=self._shown(), origin=origin)

    # What an interrupt must not lose.

    def state(self) -> dict[str, Any]:
        """Tensors and plain values; sums are those of all processes."""
        cuda = self.processes.device.type == "cuda"
        return {
            "config": self.config.plain(),
            "data": self._data,
            "position": vars(self.position).copy(),
            "sums": vars(self.sums).copy(),
            "history": self.history,
            "best": self.best,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state(self.processes.device) if cuda else None,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken.

        Raises:
            ValueError: the data or the number of processes changed.
        """
        check_data(self.config.out, state["data"], self._data)
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.position = Position(**state["position"])
        self.sums = Sums(**state["sums"]) if self.processes.is_first else Sums()
        self.history = list(state["history"])
        self.best = None if state["best"] is None else tuple(state["best"])
        torch.set_rng_state(state["random"])
        if state["random_gpu"] is not None and self.processes.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_gpu"], self.processes.device)
