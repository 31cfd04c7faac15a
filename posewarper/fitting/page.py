"""The report of a fit: what was measured, how sure every frame is, and what it looks like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from posewarper.data.tables import Floats, PoseDataset
from posewarper.data.video import FrameSource
from posewarper.fitting.comparison import THRESHOLDS, Comparison
from posewarper.fitting.folder import FitFolder
from posewarper.inference.smoothing import jitter
from posewarper.inference.suggestion import choose_frames
from posewarper.report import (
    Column,
    Picture,
    Report,
    Table,
    captioned,
    distance_curves,
    draw_poses,
    learning_curves,
    pck_curves,
    risk_coverage,
    risk_coverage_curves,
)
from posewarper.report.media import Image
from posewarper.report.page import Value
from posewarper.report.video_file import fitted

_NAMES = {
    "warp": "posewarper: labels moved from both sides, the frame itself, flow where it agrees",
    "single": "single-frame network, trained on the same labels",
    "flow": "dense optical flow from the nearest label",
    "flow-both": "dense optical flow from both labels",
    "linear": "linear interpolation",
    "copy": "copy of the nearest label",
}
_OURS, _ALONE, _WRONG = "warp", "single", 0.05
_CLIP_FRAMES, _PICTURES = 80, 6
_COVERAGES = (0.5, 0.8, 0.9, 1.0)


def write_page(
    folder: FitFolder,
    dense: PoseDataset,
    comparison: Comparison | None,
    source: FrameSource,
    seconds: Sequence[Floats],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Write ``report.html``.

    Args:
        folder: where to.
        dense: labels of every frame.
        comparison: with hidden labels, if there were any.
        source: frames.
        seconds: of the frames of each video.
        notes: about the input.

    Returns:
        The numbers in it, as plain values.
    """
    people = dense.people
    trembling = jitter(dense, seconds)
    scores = people.joint_scores[np.isfinite(people.joint_scores)]
    results: dict[str, Any] = {
        "frames": len(dense.frames),
        "labelled_by_hand": len(np.unique(people.frame[~people.predicted])),
        "people": len(people),
        "mean_confidence": float(scores.mean()) if len(scores) else None,
        "jitter": None if np.isnan(trembling.mean) else trembling.mean,
        "seconds": folder.seconds,
        "notes": list(notes),
    }
    report = Report(
        "A pose in every frame",
        ", ".join(video.name for video in dense.videos[:4]),
        {
            "frames": str(results["frames"]),
            "labelled by hand": str(results["labelled_by_hand"]),
            "time": f"{sum(folder.seconds.values()) / 60:.1f} min",
        },
    )
    if comparison is not None:
        results["hidden"] = _measured(report, comparison, dense)
    _confidence(report, dense, results)
    _pictures(report, dense, source, seconds)
    training = report.section("Training", "Loss and accuracy on the training crops.")
    training.figure(
        learning_curves({"network": folder.pose / "log.csv", "warp head": folder.warp / "log.csv"}),
        "Learning curves",
    )
    if notes:
        report.section("Notes on the input", "\n\n".join(notes))
    report.write(folder.report)
    return results


def _measured(report: Report, comparison: Comparison, dense: PoseDataset) -> dict[str, Any]:
    """What the hidden labels say."""
    count = int((~np.isnan(comparison.errors[0])).sum())
    far = comparison.distances
    section = report.section(
        "Measured on hidden labels",
        f"{count} joints of {len(far)} labelled people took no part in the training; their labels "
        "were predicted from the others. Errors are distances in shares of the person's size (the "
        "longer side of the box around the joints, median over the person's labels). Hidden frames "
        f"lie {np.median(far):g} frames from the nearest label (median; at most {far.max()}).",
    )
    if comparison.skipped:
        section.text(
            f"{comparison.skipped} hidden people were left out: without a track it is not known "
            "which label is theirs."
        )
    rows, numbers = {}, {}
    for method in comparison.methods:
        pck = [comparison.pck(method, threshold) for threshold in THRESHOLDS]
        pixels = comparison.median(method, pixels=True)
        rows[_NAMES[method]] = [*pck, comparison.median(method), pixels]
        numbers[method] = {
            "pck": dict(zip(map(str, THRESHOLDS), pck, strict=True)),
            "median": _finite(comparison.median(method)),
            "median_px": _finite(pixels),
        }
    columns = [Column(f"PCK {t:g}", "higher", percent=True) for t in THRESHOLDS]
    columns += [Column("median error", "lower", 2, percent=True), Column("pixels", "lower", 1)]
    section.table(Table(columns, rows, "method", (_NAMES[_OURS],)), "Percent; last column: pixels.")

    errors = dict(zip(comparison.methods, comparison.errors, strict=True))
    section.figure(
        pck_curves(
            {name: error.ravel() for name, error in errors.items()},
            marks=THRESHOLDS, highlight=[_OURS],
        ),
        "Share of the joints within a distance",
    )  # fmt: skip
    distances = np.unique(far)
    if len(distances) > 1:
        section.figure(
            distance_curves(
                {
                    name: [_share(error[far == distance]) for distance in distances]
                    for name, error in errors.items()
                },
                distances, label=f"PCK {_WRONG:g}, %", highlight=[_OURS],
            ),
            "Accuracy by frames to the nearest label",
        )  # fmt: skip
    _by_joint(report, comparison, dense)
    numbers[_OURS]["risk"] = _trust(report, comparison)
    _claim(report, comparison)
    return numbers


def _claim(report: Report, comparison: Comparison) -> None:
    """Whether training was worth it, against what needs none."""
    ours = comparison.pck(_OURS, _WRONG)
    others = {
        name: comparison.pck(name, _WRONG)
        for name in comparison.methods
        if name not in (_OURS, _ALONE)
    }
    best = max(others, key=others.__getitem__)
    gain = ours - others[best]
    report.claim(
        f"Better than {_NAMES[best]}, the best of what needs no training",
        "true" if gain > 0 else "mixed" if gain == 0 else "false",
        {f"gain in PCK {_WRONG:g}": f"{100 * gain:+.1f}".replace("-", "−")},
        f"{100 * ours:.1f} % against {100 * others[best]:.1f} %; the single-frame network alone: "
        f"{100 * comparison.pck(_ALONE, _WRONG):.1f} %.",
    )


def _by_joint(report: Report, comparison: Comparison, dense: PoseDataset) -> None:
    errors = comparison.errors[comparison.methods.index(_OURS)]
    rows = {
        joint: [_share(errors[:, i], t) for t in THRESHOLDS]
        for i, joint in enumerate(dense.skeleton.joints)
        if not np.isnan(errors[:, i]).all()
    }
    columns = [Column(f"PCK {t:g}", percent=True) for t in THRESHOLDS]
    report.sections[-1].heading("By joint")
    report.sections[-1].table(Table(columns, rows, "joint"))


def _trust(report: Report, comparison: Comparison) -> dict[str, float]:
    """Whether confidence orders errors; the share of wrong joints by how many are kept."""
    section = report.section(
        "Can the confidence be trusted?",
        f"Joints off by more than {_WRONG:g} of the person's size count as wrong. If only the "
        "joints of the highest confidence are kept, fewer of them are wrong: the confidence is the "
        "height of the heatmap times how well the way there and back leads to the label.",
    )
    pairs = {}
    for method in (_OURS, _ALONE):
        at = comparison.methods.index(method)
        known = ~np.isnan(comparison.errors[at])
        pairs[method] = (
            comparison.scores[at][known],
            (comparison.errors[at][known] > _WRONG).astype(float),
        )
    section.figure(
        risk_coverage_curves(pairs, label="wrong joints, %", percent=True),
        "Share of wrong joints among the surest ones",
    )
    coverage, risk = risk_coverage(*pairs[_OURS])
    places = np.searchsorted(coverage, _COVERAGES).clip(max=len(risk) - 1)
    return {f"{c:g}": float(risk[p]) for c, p in zip(_COVERAGES, places.tolist(), strict=True)}


def _confidence(report: Report, dense: PoseDataset, results: dict[str, Any]) -> None:
    people, frames = dense.people, dense.frames
    section = report.section(
        "How sure every frame is",
        "Confidence of the predicted joints (1: sure), and the frames whose labelling would help "
        "most: label them, add them to the file, and run the command again.",
    )
    rows = {}
    for position, video in enumerate(dense.videos):
        of_video = frames.video[people.frame] == position
        for track in np.unique(people.track_id[of_video & people.predicted]).tolist():
            of_track = of_video & people.predicted & (people.track_id == track)
            scores = people.joint_scores[of_track]
            rows[f"{video.name}, track {track}" if track >= 0 else f"{video.name}, no track"] = [
                int(of_track.sum()), float(np.nanmean(scores)),
                float(np.nanquantile(scores, 0.05)), float(np.nanmean(scores < 0.5)),
            ]  # fmt: skip
    columns = (
        Column("frames", digits=0),
        Column("mean", digits=2),
        Column("5th percentile", digits=2),
        Column("joints below 0.5", percent=True),
    )
    section.table(Table(columns, rows, "track"))
    if results["jitter"] is not None:
        section.text(
            f"Jitter: {100 * results['jitter']:.2f} % of the body's size (mean distance of a joint "
            "from the middle of where it is one frame before and after, twice). Smoothing "
            "(smooth: true) mostly lowers it; it lags behind fast turns."
        )
    # Where every frame has a human label, the model is what was wanted.
    suggestions = choose_frames(dense, 10) if dense.people.predicted.any() else []
    results["suggestions"] = [
        {"video": s.video, "frame": s.frame, "gain": s.gain} for s in suggestions
    ]
    if suggestions:
        worth: dict[str, list[Value]] = {
            f"{s.video}, frame {s.frame}": [
                s.gain, ", ".join(dict.fromkeys(unsure.joint for unsure in s.worst))
            ]
            for s in suggestions
        }  # fmt: skip
        gains = (Column("gain", digits=2), Column("least sure joints"))
        section.table(Table(gains, worth, "label next"))


def _pictures(
    report: Report, dense: PoseDataset, source: FrameSource, seconds: Sequence[Floats]
) -> None:
    section = report.section("What it looks like", "The fainter a joint, the less sure it is.")
    rows = dense.people_by_frame()
    video = int(np.bincount(dense.frames.video[dense.people.frame]).argmax())
    of_video = np.flatnonzero(dense.frames.video == video)
    inhabited = [row for row in of_video.tolist() if len(rows[row])]
    by_hand = [
        place for place, row in enumerate(inhabited) if not dense.people.predicted[rows[row]].all()
    ]
    middle = by_hand[len(by_hand) // 2]
    shown = inhabited[max(middle - _CLIP_FRAMES // 2, 0) :][:_CLIP_FRAMES]
    rate = 1 / float(np.median(np.diff(seconds[video]))) if len(seconds[video]) > 1 else 15.0
    drawn = list(_drawn(dense, shown, source))
    if drawn:
        size_wh = drawn[0][0].shape[1], drawn[0][0].shape[0]
        clip = [fitted(image, size_wh) for image, _ in drawn]  # images of a folder may differ
        section.clip(clip, min(rate, 30.0), f"{dense.videos[video].name}: {len(clip)} frames")
    worst = sorted(
        (row for row in inhabited if dense.people.predicted[rows[row]].any()),
        key=lambda row: float(np.nanmean(dense.people.joint_scores[rows[row]])),
    )[:_PICTURES]
    pictures = [Picture(image, name) for image, name in _drawn(dense, worst, source)]
    if pictures:
        section.heading("The least sure frames")
        section.images(pictures)


def _drawn(
    dense: PoseDataset, frame_rows: Sequence[int], source: FrameSource
) -> Iterator[tuple[Image, str]]:
    """Frames with poses, and what they are called; without those that cannot be read."""
    people, frames = dense.people, dense.frames
    of_frame = dense.people_by_frame()
    for row in frame_rows:
        number = int(frames.number[row])
        image = source.read(dense.videos[frames.video[row]], number)
        if image is None:
            continue
        those = of_frame[row]
        drawn = draw_poses(
            image, people.keypoints[those], dense.skeleton, scores=people.joint_scores[those],
            track_ids=people.track_id[those], upscale_to=480,
        )  # fmt: skip
        by_hand = len(those) and not people.predicted[those].any()
        yield captioned(drawn, f"{number}" + (" (label)" if by_hand else "")), f"frame {number}"


def _finite(value: float) -> float | None:
    """None in place of an infinite error, for which JSON has no number."""
    return value if np.isfinite(value) else None


def _share(errors: Floats, threshold: float = _WRONG) -> float:
    known = errors[~np.isnan(errors)]
    return float((known <= threshold).mean()) if len(known) else float("nan")
