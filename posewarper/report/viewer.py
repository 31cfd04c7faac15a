"""Labels and predictions over their video, frame by frame, on one HTML page that fetches nothing.

    view(Path("out/labels.json"))                                  # writes out/labels.html
    view(Path("out/labels.json"), compare=Path("truth.json"), first=0, last=299)

The page holds the frames as compressed images; joints are drawn over them by the browser. No text
of the files is trusted, and a content security policy keeps the page from fetching anything and
from running any script but its own, as in ``posewarper.report.page``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import posixpath
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image as PillowImage
from PIL import features
from tqdm import tqdm

from posewarper.data.tables import PoseDataset, Video
from posewarper.data.video import FrameError, FrameSource, Image
from posewarper.files import whole_file
from posewarper.progress import progress_bar
from posewarper.report.overlays import PALETTE
from posewarper.report.viewer_data import (
    add_matches,
    human_frames,
    people_of_frames,
    same_video,
)
from posewarper.report.viewer_source import (
    WhichFrames,
    fps_of,
    frame_numbers,
    load_videos,
    root_of,
)

ImageFormat = Literal["webp", "jpeg"]

_SAMPLE = 30  # frames after which the size of the page is foreseen
_SCRIPTS = ("viewer_frame.js", "viewer_timeline.js", "viewer.js")


def view(
    labels: Path,
    out: Path | None = None,
    images: Path | None = None,
    video: Path | None = None,
    name: str | None = None,
    compare: Path | None = None,
    frames: WhichFrames = "all",
    first: int | None = None,
    last: int | None = None,
    every: int = 1,
    max_side: int = 960,
    quality: int = 70,
    image_format: ImageFormat = "webp",
    max_mb: float = 100.0,
    threshold: float = 0.0,
    fps: float | None = None,
    progress: bool = True,
) -> Path:
    """Write one HTML page that shows labels and predictions over their video, frame by frame.

    Frames that are missing or damaged are grey and listed, on the page and on stderr.

    Args:
        labels: COCO-style file or one of another tool, or folder of official PoseTrack files.
        out: page to write; by default the name of ``labels`` with .html.
        images: folder that the frames' paths start in; by default the folder of ``labels``, the
            one above it, or the current one, the first that has them.
        video: video file or folder of images, where the labels do not say or it lies elsewhere.
        name: of several videos the one with this name, or those that match a pattern such as
            "val/*"; by default all.
        compare: other labels of the same frames, such as ground truth or another method: thin
            crosses, and their distance in the table.
        frames: all; annotated: those with people; human: those with labels by humans.
        first: number of the first frame to show.
        last: number of the last frame to show.
        every: show every k-th of these frames.
        max_side: larger frames are shrunk to this many pixels.
        quality: of the images, 1 (small) to 100 (good).
        image_format: webp: small; jpeg: written ten times as fast, two to three times as large.
        max_mb: largest size of the page in megabytes.
        threshold: joints with a lower confidence are hidden at first; a slider changes it.
        fps: frames per second; by default those of the video file, 25 for images.
        progress: show a progress bar.

    Returns:
        The page.

    Raises:
        FileNotFoundError: labels, video or frames are not there.
        ValueError: a file that cannot be read, arguments out of range, no frame to show, or a page
            that would be larger than ``max_mb``. Names the argument or file.
    """
    _check(every, max_side, quality, image_format, max_mb, threshold, fps, frames)
    if out is None:
        out = labels.with_suffix(".html") if labels.is_file() else Path(f"{labels}.html")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out: expected a name that ends in .html, got {out.name!r}")
    if images is not None and video is not None:
        raise ValueError(f"images, video: expected one of them, got {images} and {video}")
    dataset, other, tracks = load_videos(labels, video, name, compare)
    root = root_of(dataset, images, video, labels)
    films = []
    for position in range(len(dataset.videos)):
        numbers = frame_numbers(
            dataset, position, root, which=frames, first=first, last=last, every=every
        )
        if numbers:
            films.append(_film(dataset, other, position, numbers, root, fps))
    total = sum(len(film.numbers) for film in films)
    if not total:
        raise ValueError(_nothing(dataset, frames, first, last))

    for film, shown in zip(films, _short_names([film.video.name for film in films]), strict=True):
        film.name = shown

    source = FrameSource(root, dataset=dataset, cached_frames=1)
    content: dict[str, Any] = {
        "joints": dataset.skeleton.joints,
        "limbs": dataset.skeleton.limbs,
        "tracks": tracks,
        "palette": [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in PALETTE],
        "format": image_format,
        "threshold": threshold,
    }

    def data() -> Markup:  # asked for behind the frames, when it is known which are missing
        text = json.dumps(
            {**content, "videos": [film.as_json() for film in films]},
            allow_nan=False, separators=(",", ":"),
        )  # fmt: skip
        return Markup(text.replace("<", "\\u003c"))  # no tag can end the element

    template, texts = _template()
    other_bytes = len(data()) + sum(len(text) for text in texts.values()) + 10_000
    out.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar(progress, total=total, unit="frame", desc="view") as bar:
        encoder = _Encoder(image_format, quality, max_side, total, max_mb, other_bytes)
        pieces = template.generate(
            title=films[0].name if len(films) == 1 else labels.name,
            subtitle=_subtitle(labels, compare, films),
            compare="" if compare is None else compare.name,
            videos=[film.name for film in films],
            frames=_embedded(films, source, encoder, bar),
            data=data, **texts,
        )  # fmt: skip
        with whole_file(out) as partial:
            # Names of files may hold bytes that are no text.
            with open(partial, "w", encoding="utf-8", errors="replace", newline="\n") as file:
                for piece in pieces:
                    file.write(piece)
            _check_shown(films, total)
            size = partial.stat().st_size
    _report(films, total, size, out)
    return out


@dataclass
class _Film:
    """One video of the page.

    Attributes:
        video: whose frames these are.
        name: of the video on the page, without the folders that all of them lie in.
        numbers: of the frames.
        fps: frames per second.
        people: for each frame, see ``viewer_data``.
        human: positions of the frames with labels by humans.
        others: people of the other label file; None if that does not have this video.
        sizes: (width, height) of each frame in the video, by position, of those that can be read.
        missing: message by position, of the others.
    """

    video: Video
    name: str
    numbers: list[int]
    fps: float
    people: list[list[dict[str, Any]]]
    human: list[int]
    others: list[list[dict[str, Any]]] | None
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What the page's script reads; ``sizes`` has the frames that differ from ``size``."""
        size = next(iter(self.sizes.values()), (640, 480))
        return {
            "name": self.name,
            "fps": self.fps,
            "size": size,
            "sizes": {at: wh for at, wh in self.sizes.items() if wh != size},
            "numbers": self.numbers,
            "people": self.people,
            "human": self.human,
            "missing": self.missing,
            **({} if self.others is None else {"others": self.others}),
        }


class _Encoder:
    """Compresses frames, and stops as soon as it is clear that they will not fit.

    Args:
        kind: of the images.
        quality: of the images.
        max_side: pixels.
        total: how many frames there will be.
        max_mb: largest size of the page in megabytes.
        other_bytes: what else the page holds.
    """

    def __init__(
        self, kind: ImageFormat, quality: int, max_side: int, total: int, max_mb: float,
        other_bytes: int,
    ):  # fmt: skip
        self.options: dict[str, Any] = {"format": kind.upper(), "quality": quality}
        if kind == "webp":
            self.options["method"] = 1  # of 0 to 6: a fifth larger than the default, twice as fast
        self.max_side, self.total, self.max_mb, self.other_bytes = (
            max_side, total, max_mb, other_bytes,
        )  # fmt: skip
        self.count = self.written = self.largest_side = 0

    def text(self, image: Image) -> str:
        """The image in base64.

        Raises:
            ValueError: the page will be larger than allowed; says what to do.
        """
        factor = self.max_side / max(image.shape[:2])
        if factor < 1:
            size_wh = [max(1, round(side * factor)) for side in image.shape[1::-1]]
            image = np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        file = io.BytesIO()
        PillowImage.fromarray(image).save(file, **self.options)
        text = base64.b64encode(file.getvalue()).decode("ascii")
        self.count += 1
        self.written += len(text) + 60  # with its tag
        self.largest_side = max(self.largest_side, *image.shape[:2])
        foreseen = self.written / self.count * self.total
        limit = 1e6 * self.max_mb - self.other_bytes
        if self.written > limit or (self.count >= _SAMPLE and foreseen > 1.2 * limit):
            self._stop(foreseen, limit)
        return text

    def _stop(self, foreseen: float, limit: float) -> None:
        size = f"{(foreseen + self.other_bytes) / 1e6:.3g} MB, expected at most {self.max_mb:g}"
        if limit < 0.1 * foreseen / self.total:
            raise ValueError(f"max_mb: the page takes about {size}")
        fitting = limit / (1.05 * foreseen) * self.total  # frames
        side = max(16, int(self.largest_side * math.sqrt(fitting / self.total)) // 16 * 16)
        step = math.ceil(self.total / max(1, int(fitting)))
        raise ValueError(
            f"max_mb: {self.total} frames of up to {self.largest_side} pixels take about {size}; "
            f"show smaller ones (max_side={side}), one in {step} of them (every), or a "
            "part (first, last), lower the quality, or allow more (max_mb)"
        )


def _embedded(
    films: Sequence[_Film], source: FrameSource, encoder: _Encoder, bar: tqdm[Any]
) -> Iterator[tuple[str, Markup]]:
    """Id and text of each frame that can be read; the others are noted."""
    for index, film in enumerate(films):
        for position, number in enumerate(film.numbers):
            try:
                image = source.read(film.video, number)
            except FrameError as error:
                message = str(error)  # the folders of this machine do not concern readers
                for folder in ((source.root / film.video.path).parent, source.root):
                    message = message.replace(f"{folder}{os.sep}", "")
                film.missing[position] = message
            else:
                assert image is not None  # the source was told to raise
                film.sizes[position] = (image.shape[1], image.shape[0])
                yield f"f{index}-{position}", Markup(encoder.text(image))
            bar.update()


def _film(
    dataset: PoseDataset, other: PoseDataset | None, position: int, numbers: list[int],
    root: Path, fps: float | None,
) -> _Film:  # fmt: skip
    video = dataset.videos[position]
    people = people_of_frames(dataset, position, numbers)
    others = None
    place = None if other is None else same_video(other, dataset, position)
    if other is not None and place is not None:
        others = people_of_frames(other, place, numbers)
        add_matches(people, others)
    human = human_frames(dataset, position, numbers)
    return _Film(video, video.name, numbers, fps or fps_of(root, video), people, human, others)


def _short_names(names: Sequence[str]) -> list[str]:
    """Names without the folders that they share: nobody else has to know these."""
    if len(names) == 1:
        return [posixpath.basename(names[0].rstrip("/")) or names[0]]
    absolute = {posixpath.isabs(name) for name in names}
    if len(absolute) > 1:
        return list(names)
    shared = posixpath.commonpath([posixpath.dirname(name) for name in names])
    return [posixpath.relpath(name, shared) if shared else name for name in names]


def _check(
    every: int, max_side: int, quality: int, image_format: str, max_mb: float, threshold: float,
    fps: float | None, frames: str,
) -> None:  # fmt: skip
    for name, value, low, high in (
        ("every", every, 1, math.inf),
        ("max_side", max_side, 16, math.inf),
        ("quality", quality, 1, 100),
        ("threshold", threshold, 0, 1),
    ):
        if not low <= value <= high:
            bounds = f"{low} or more" if high == math.inf else f"{low} to {high}"
            raise ValueError(f"{name}: expected {bounds}, got {value}")
    for name, number in (("max_mb", max_mb), ("fps", 1.0 if fps is None else fps)):
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name}: expected a positive number, got {number}")
    if frames not in get_args(WhichFrames):
        raise ValueError(f"frames: expected one of {get_args(WhichFrames)}, got {frames!r}")
    if image_format not in get_args(ImageFormat):
        raise ValueError(
            f"image_format: expected one of {get_args(ImageFormat)}, got {image_format!r}"
        )
    if image_format == "webp" and not features.check("webp"):
        raise ValueError("image_format: Pillow was built without WebP here; take jpeg")


def _nothing(dataset: PoseDataset, frames: str, first: int | None, last: int | None) -> str:
    has = ", ".join(f"{v.name} {v.first_frame}..{v.last_frame}" for v in dataset.videos[:6])
    low, high = ("" if end is None else str(end) for end in (first, last))
    return (
        f"{dataset.source}: no frame to show with frames={frames!r}, first..last {low}..{high}; "
        f"the videos have {has}"
    )


def _check_shown(films: Sequence[_Film], total: int) -> None:
    if sum(len(film.missing) for film in films) == total:
        film = next(film for film in films if film.missing)
        message = next(iter(film.missing.values()))
        raise ValueError(f"none of {total} frames can be read; the first: {message}")


def _subtitle(labels: Path, compare: Path | None, films: Sequence[_Film]) -> str:
    count = sum(len(film.numbers) for film in films)
    if len(films) > 1:  # the title is the name of the labels
        parts = [f"{len(films)} videos", f"{count} frames"]
    else:
        parts = [labels.name, f"{count} frames", f"{films[0].fps:g} frames per second"]
    if compare is not None:
        parts.append(f"compared with {compare.name}")
    return " · ".join(parts)


def _report(films: Sequence[_Film], total: int, size: int, out: Path) -> None:
    people = sum(len(frame) for film in films for frame in film.people)
    print(
        f"{len(films)} videos, {total} frames, {people} people, {size / 1e6:.1f} MB -> {out}",
    )
    missing = [message for film in films for message in film.missing.values()]
    if missing:
        shown = "\n  ".join(missing[:5]) + ("\n  ..." if len(missing) > 5 else "")
        print(f"{len(missing)} frames cannot be read and are grey:\n  {shown}", file=sys.stderr)


@cache
def _template() -> tuple[jinja2.Template, Mapping[str, Any]]:
    """The page; its style and script, and the policy that allows these and nothing else."""
    loader = jinja2.PackageLoader("posewarper.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style = loader.get_source(environment, "viewer.css")[0]
    script = "\n".join(loader.get_source(environment, name)[0] for name in _SCRIPTS)
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; "
        f"script-src 'sha256-{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
    texts = {"style": Markup(style), "script": Markup(script), "policy": policy}
    return environment.get_template("viewer.html"), texts
