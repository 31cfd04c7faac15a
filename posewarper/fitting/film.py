"""A video with the labels drawn into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameSource, frame_rate
from posewarper.progress import progress_bar
from posewarper.report import draw_poses
from posewarper.report.media import Image
from posewarper.report.video_file import film_of, fitted

_LEAST_SIDE = 640  # pixels: smaller frames are enlarged, or lines would hide what they show


def write_film(
    dataset: PoseDataset,
    position: int,
    source: FrameSource,
    path: Path,
    *,
    min_score: float = 0.1,
    fps: float | None = None,
    progress: bool = True,
) -> None:
    """Write an H.264 file of all frames of a video, with everybody's joints and limbs.

    Joints are the fainter the less sure they are. Frames that the source skips are left grey, so
    that the film is as long as the video. Smaller images stand in the middle of the largest.

    Args:
        dataset: dense labels.
        position: of the video.
        source: frames.
        path: file to write; its folder is made.
        min_score: joints with a lower score are not drawn.
        fps: frames per second, for folders of images; 25 if not given.
        progress: show a progress bar.
    """
    video = dataset.videos[position]
    rate = frame_rate(source, video, 25.0 if fps is None and not video.is_file else fps)
    rows = dataset.frame_rows()
    size = dataset.frames.size_wh[dataset.frames.video == position].max(0)
    grey: Image = np.full((int(size[1]), int(size[0]), 3), 128, np.uint8)
    people, of_frame = dataset.people, dataset.people_by_frame()
    nobody = np.zeros(0, np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(video.first_frame, video.last_frame + 1)
    with (
        film_of(path, rate, _shape(grey)) as film,
        progress_bar(progress, total=len(numbers), unit="frame", desc=path.name) as bar,
    ):
        for number in numbers:
            bar.update()
            row = rows.get((position, number))
            image = grey if row is None else source.read(video, number)
            here = nobody if row is None else of_frame[row]
            drawn = draw_poses(
                grey if image is None else image,
                people.keypoints[here],
                dataset.skeleton,
                scores=people.joint_scores[here],
                track_ids=people.track_id[here],
                min_score=min_score,
                upscale_to=_LEAST_SIDE,
            )
            film.write(fitted(drawn, film.size_wh))


def _shape(image: Image) -> tuple[int, int]:
    """Width and height of a drawn frame."""
    factor = -(-_LEAST_SIDE // max(image.shape[:2]))
    return image.shape[1] * factor, image.shape[0] * factor
