"""Synthetic videos of people: every frame drawn on demand, every joint known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from posewarper.data.synthetic_figures import (
    IDS_PER_PERSON,
    JOINT_RADII,
    OWN_PARTS,
    Canvas,
    Figure,
    Look,
)
from posewarper.data.synthetic_motion import HEAD, JOINTS, Floats, Motion, Posture
from posewarper.data.synthetic_scene import Backdrop, Camera, Image, Lens, Thing, random_things

Bools = NDArray[np.bool_]

_EARS = [3, 4]
_BOX_GROWTH = 1.3  # of the joints' extent, as in PoseTrack18
_MAX_PEOPLE = 1000  # ids of parts are 16 bits


@dataclass(frozen=True)
class Difficulty:
    """What makes a video hard; the defaults leave much to be seen only in neighbouring frames.

    Attributes:
        person_height: smallest and largest height of a person, as shares of the image's height.
        speed: of all movements; 1 is natural at the video's frames per second.
        blur: share of frames with motion blur, alone or in pairs between sharp frames.
        shutter: exposure of a blurred frame, in frames.
        shake: amplitude of the camera's jerks in blurred frames, as a share of the image's height.
        defocus: share of frames out of focus, in runs of one to three.
        defocus_radius: standard deviation of that blur, as a share of the image's height.
        occluders: average number of things that stand in front of somebody, and, per 60 frames, of
            things that pass by.
        crowding: 0 to 1, how much the paths of people are drawn to the middle, where they meet.
        contrast: of the background, 0 to 1 (as strong as clothes).
        pan: amplitude of the camera's slow turning, as a share of the image's width.
        flicker: standard deviation of the brightness between frames; 0.05 is 5 %.
        noise: standard deviation of the pixel noise, grey levels of 255.
        leave: share of people who may enter and leave the image.
    """

    person_height: tuple[float, float] = (0.45, 0.85)
    speed: float = 1.4
    blur: float = 0.2
    shutter: float = 1.0
    shake: float = 0.03
    defocus: float = 0.1
    defocus_radius: float = 0.014
    occluders: float = 1.0
    crowding: float = 0.25
    contrast: float = 0.6
    pan: float = 0.06
    flicker: float = 0.04
    noise: float = 5.0
    leave: float = 0.3

    def __post_init__(self) -> None:
        low, high = self.person_height
        if not 0.05 <= low <= high <= 2:
            raise ValueError(
                "person_height: expected two shares of the image's height between 0.05 and 2, the "
                f"smaller first, got {self.person_height}"
            )
        limits = {
            "speed": (0.01, 10), "blur": (0, 1), "shutter": (0, 4), "shake": (0, 0.2),
            "defocus": (0, 1), "defocus_radius": (0, 0.2), "occluders": (0, 20),
            "crowding": (0, 1), "contrast": (0, 1), "pan": (0, 0.3), "flicker": (0, 0.5),
            "noise": (0, 100), "leave": (0, 1),
        }  # fmt: skip
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name}: expected {least} to {most}, got {value}")
        if self.blur + self.defocus > 1:
            raise ValueError(
                f"blur + defocus: expected at most 1, got {self.blur} + {self.defocus}"
            )


@dataclass(frozen=True, eq=False)
class SyntheticVideo:
    """A video of T frames and P people with its complete ground truth.

    Attributes:
        size_wh: of the images in pixels.
        fps: frames per second.
        keypoints: x, y in pixels (pixel centres are whole numbers) at the middle of the exposure,
            and 2 where the joint is seen, 1 where it is hidden, 0 where it is outside the image;
            coordinates are true in all three cases; [T, P, 17, 3].
        boxes: x, y, width, height: extent of the joints in the image times 1.3, clipped to the
            image; NaN where the person is absent; [T, P, 4].
        head_boxes: x1, y1, x2, y2, not clipped, so that the size of a head at the border stays
            right; NaN where absent; [T, P, 4].
        present: whether enough of the person is seen to be labelled, [T, P].
        track_ids: [P].
        blurred: frames with motion blur, [T].
        defocused: frames out of focus, [T].
    """

    size_wh: tuple[int, int]
    fps: float
    keypoints: Floats
    boxes: Floats
    head_boxes: Floats
    present: Bools
    track_ids: NDArray[np.int64]
    blurred: Bools
    defocused: Bools
    scene: Scene = field(repr=False)

    def __len__(self) -> int:
        return len(self.blurred)

    @property
    def occluded(self) -> Bools:
        """Joints in the image that are hidden by a body or a thing, [T, P, 17]."""
        return self.keypoints[..., 2] == 1

    def frame(self, index: int) -> Image:
        """One frame as RGB [H, W, 3] uint8; the same at each call.

        Raises:
            IndexError: there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame: expected 0 to {len(self) - 1}, got {index}")
        return self.scene.render(index)

    def frames(self) -> Iterator[Image]:
        """All frames in order; see ``frame``."""
        return (self.frame(index) for index in range(len(self)))

    def labels(
        self, *, occluded: Literal["keep", "drop"] = "keep", ears: bool = False
    ) -> tuple[Floats, Bools]:
        """What an annotator would have written.

        Args:
            occluded: "keep" labels hidden joints (visibility 1), "drop" leaves them out.
            ears: whether ears are labelled; in PoseTrack they never are.

        Returns:
            keypoints [T, P, 17, 3] with zeros where there is no label, and who is labelled at
            all [T, P].
        """
        if occluded not in ("keep", "drop"):
            raise ValueError(f"occluded: expected 'keep' or 'drop', got {occluded!r}")
        labelled = self.keypoints[..., 2] > (0 if occluded == "keep" else 1)
        labelled &= self.present[..., None]
        if not ears:
            labelled[..., _EARS] = False
        return np.where(labelled[..., None], self.keypoints, 0.0), np.asarray(labelled.any(-1))


def generate_video(
    seed: int,
    *,
    frames: int = 60,
    size_wh: tuple[int, int] = (320, 240),
    people: int = 2,
    fps: float = 15.0,
    difficulty: Difficulty | None = None,
) -> SyntheticVideo:
    """A video that depends on nothing but its arguments.

    With the same versions of numpy and OpenCV on the same kind of processor, frames are equal bit
    for bit, in whatever order they are drawn.

    Args:
        seed: a whole number, not negative.
        frames: length of the video.
        size_wh: of the image in pixels, each at least 32.
        people: how many there are; some of them may be outside the image at times.
        fps: frames per second.
        difficulty: by default ``Difficulty()``.

    Raises:
        ValueError: an argument is out of its range.
    """
    difficulty = Difficulty() if difficulty is None else difficulty
    for name, value, least, most in (
        ("seed", seed, 0, 2**63),
        ("frames", frames, 1, 100_000),
        ("size_wh", min(size_wh), 32, 8192),
        ("size_wh", max(size_wh), 32, 8192),
        ("people", people, 0, _MAX_PEOPLE),
        ("fps", fps, 1, 1000),
    ):
        if not least <= value <= most:
            raise ValueError(f"{name}: expected {least} to {most}, got {value}")
    scene = Scene(seed, frames, size_wh, people, fps, difficulty)
    keypoints, head_boxes = scene.ground_truth()
    in_image, seen = keypoints[..., 2] > 0, keypoints[..., 2] == 2
    present = (in_image.sum(-1) >= 5) & (seen.sum(-1) >= 3)
    head_boxes[~present] = np.nan
    boxes = _boxes(keypoints, in_image, size_wh)
    boxes[~present] = np.nan
    return SyntheticVideo(
        size_wh, fps, keypoints, boxes, head_boxes, present, np.arange(people), scene.blurred,
        scene.defocused, scene,
    )  # fmt: skip


def _boxes(keypoints: Floats, in_image: Bools, size_wh: tuple[int, int]) -> Floats:
    """x, y, width, height of the joints in the image, grown and clipped; [T, P, 4]."""
    inside = in_image[..., None]
    low = np.where(inside, keypoints[..., :2], np.inf).min(2)
    high = np.where(inside, keypoints[..., :2], -np.inf).max(2)
    none = ~in_image.any(-1)
    low[none] = high[none] = 0.0
    grown = (high - low) * (_BOX_GROWTH - 1) / 2
    limit = np.array(size_wh) - 1.0
    low, high = np.clip(low - grown, 0, limit), np.clip(high + grown, 0, limit)
    return np.concatenate([low, high - low], axis=-1)


def _faulty_frames(
    rng: np.random.Generator, frames: int, share: float, longest: int, taken: Bools
) -> Bools:
    """Runs of 1 to ``longest`` frames, apart from each other and from those taken; [frames]."""
    chosen = np.zeros(frames, bool)
    wanted = round(share * frames)
    for gap in (2, 1, 0):  # large shares leave no room for two good frames between
        for _ in range(20 * frames):
            missing = wanted - int(chosen.sum())
            if missing <= 0:
                return chosen
            length = min(int(rng.integers(1, longest + 1)), missing)
            start = int(rng.integers(0, max(1, frames - length + 1)))
            around = slice(max(0, start - gap), start + length + gap)
            if not (chosen | taken)[around].any():
                chosen[start : start + length] = True
    return chosen


class Scene:
    """Everything that a video shows, at any time; made by ``generate_video``."""

    def __init__(
        self,
        seed: int,
        frames: int,
        size_wh: tuple[int, int],
        people: int,
        fps: float,
        difficulty: Difficulty,
    ):
        # A stream of its own for each subject: another background leaves the people as they were.
        faults, camera, backdrop, lens, things, order = (
            np.random.default_rng((seed, stream)) for stream in range(6)
        )
        self._frames, self._size_wh, self._shutter = frames, size_wh, difficulty.shutter
        none = np.zeros(frames, bool)
        self.blurred = _faulty_frames(faults, frames, difficulty.blur, 2, none)
        self.defocused = _faulty_frames(faults, frames, difficulty.defocus, 3, self.blurred)
        self.camera = Camera(
            camera, frames=frames, size_wh=size_wh, fps=fps, pan=difficulty.pan,
            shake=difficulty.shake, blurred=self.blurred,
        )  # fmt: skip
        self._backdrop = Backdrop(backdrop, self.camera, difficulty.contrast)
        radius = difficulty.defocus_radius * size_wh[1] * faults.uniform(0.75, 1.25, frames)
        self._lens = Lens(
            lens, frames=frames, size_wh=size_wh, fps=fps, flicker=difficulty.flicker,
            noise=difficulty.noise, defocus=np.where(self.defocused, radius, 0.0),
        )  # fmt: skip
        # A person of 1.7 m at this distance has the wanted height in the image.
        small, large = difficulty.person_height
        near, far = (1.7 * self.camera.focal / (h * size_wh[1]) for h in (large, small))
        half_view = size_wh[0] / (2 * self.camera.focal) * (1 - 0.55 * difficulty.crowding)
        # Lanes of depth keep people from walking through each other.
        lanes, places = order.permutation(people), order.permutation(people)
        width = (far - near) / max(people, 1)
        self._motions, self._looks = [], []
        for person in range(people):
            rng = np.random.default_rng((seed, 100 + person))
            nearest = near + lanes[person] * width
            leaves = bool(rng.random() < difficulty.leave)
            self._motions.append(
                Motion(
                    rng, frames=frames, fps=fps, speed=difficulty.speed, near=nearest,
                    far=nearest + 0.9 * width, half_view=half_view, leaves=leaves,
                    start=(2 * places[person] + 1) / people - 1,
                )
            )  # fmt: skip
            self._looks.append(Look.random(rng))
        self.things: list[Thing] = random_things(
            things, self.camera, amount=difficulty.occluders, frames=frames, fps=fps, near=near,
            far=far,
        )  # fmt: skip

    def _figures(self, times: Floats) -> tuple[list[Figure], list[Posture], Floats]:
        """The people at N instants, and the homographies [N, 3, 3]."""
        views = np.stack([self.camera.view(time) for time in times.tolist()])
        figures, postures = [], []
        for person, (motion, look) in enumerate(zip(self._motions, self._looks, strict=True)):
            posture = motion.at(times)
            pixels, scale = self.camera.project(posture.points, views)
            first_id = 1 + person * IDS_PER_PERSON
            figures.append(Figure(motion.body, look, posture, pixels, scale, first_id))
            postures.append(posture)
        return figures, postures, views

    def _draw(
        self, canvas: Canvas, figures: list[Figure], instant: int, view: Floats, time: float
    ) -> None:
        """People and things, the farthest first."""
        items: list[Figure | Thing] = [*figures, *self.things]
        depths = [float(f.depth[instant]) for f in figures] + [t.depth for t in self.things]
        for index in np.argsort(-np.array(depths), kind="stable").tolist():
            item = items[index]
            if isinstance(item, Figure):
                item.draw(canvas, instant)
            else:
                item.draw(canvas, self.camera, view, time)

    def render(self, frame: int) -> Image:
        """A frame as recorded, RGB [H, W, 3]."""
        times = np.array([float(frame)])
        if self.blurred[frame] and self._shutter > 0:
            times = frame + self._shutter * self._exposure(frame)
        figures, _, views = self._figures(times)
        total = None
        for instant, time in enumerate(times.tolist()):
            image = self._backdrop.draw(views[instant], self._size_wh)
            self._draw(Canvas(image=image), figures, instant, views[instant], time)
            if len(times) > 1:
                total = image.astype(np.float32) if total is None else total
                if instant:
                    cv2.accumulate(image, total)
        if total is not None:
            image = np.asarray(cv2.convertScaleAbs(total, alpha=1 / len(times)), np.uint8)
        return self._lens.apply(image, frame)

    def _exposure(self, frame: int) -> Floats:
        """Instants of an exposure, in shutter times around its middle: so many that no joint moves
        far between two of them and the blur is a streak instead of copies.
        """
        ends = frame + self._shutter * np.array((-0.5, 0.0, 0.5))
        figures, _, _ = self._figures(ends)
        moved = [np.abs(np.diff(figure.points, axis=0)).sum(0).max() for figure in figures]
        for thing in self.things:
            metres = abs(thing.velocity) * self._shutter
            moved.append(metres * self.camera.focal / thing.depth)
        count = int(np.clip(np.ceil(max(moved, default=0.0) / 2.5), 4, 14))
        return (np.arange(count) + 0.5) / count - 0.5

    def part_ids(self, frame: int) -> NDArray[np.uint16]:
        """What is seen at each pixel in the middle of an exposure, [H, W]: 0 the backdrop,
        1 + 32 * person + part, or from ``FIRST_OBJECT_ID`` on a thing.
        """
        time = float(frame)
        figures, _, views = self._figures(np.array([time]))
        return self._ids(figures, 0, views[0], time)

    def _ids(
        self, figures: list[Figure], instant: int, view: Floats, time: float
    ) -> NDArray[np.uint16]:
        width, height = self._size_wh
        ids = np.zeros((height, width), np.uint16)
        self._draw(Canvas(ids=ids), figures, instant, view, time)
        return ids

    def ground_truth(self) -> tuple[Floats, Floats]:
        """Joints [T, P, 17, 3] and head boxes [T, P, 4] of ``SyntheticVideo``."""
        people, frames = len(self._motions), self._frames
        keypoints = np.zeros((frames, people, JOINTS, 3))
        head_boxes = np.zeros((frames, people, 4))
        if people == 0:
            return keypoints, head_boxes
        figures, postures, views = self._figures(np.arange(frames, dtype=float))
        for person, (figure, posture) in enumerate(zip(figures, postures, strict=True)):
            keypoints[:, person, :, :2] = figure.points[:, :JOINTS]
            body = self._motions[person].body
            head = figure.points[:, HEAD]
            half = 0.5 * body.head * figure.scale[:, HEAD, None] * (0.84, 1.0)
            ends = figure.points[:, [1, 2]]
            corners = np.concatenate([(head - half)[:, None], (head + half)[:, None], ends], axis=1)
            head_boxes[:, person] = np.concatenate([corners.min(1), corners.max(1)], axis=1)
            # The far side of a head is hidden by the head itself.
            facing = np.stack([posture.head_axes[:, 0], posture.head_axes[:, 1]], axis=1)
            towards = (facing @ figure.away[:, :, None])[:, :, 0]
            turned = np.stack([towards[:, 0], towards[:, 1], -towards[:, 1]], axis=1) > 0.3
            keypoints[:, person, [0, 3, 4], 2] = np.where(turned, 1.0, 0.0)
        for frame in range(frames):
            ids = self._ids(figures, frame, views[frame], float(frame))
            for person, figure in enumerate(figures):
                radii = JOINT_RADII * self._motions[person].body.height
                radii = radii * figure.scale[frame, :JOINTS]
                joints = keypoints[frame, person]
                seen, inside = _seen(joints[:, :2], radii, ids, 1 + person * IDS_PER_PERSON)
                turned_away = joints[:, 2] == 1
                joints[:, 2] = np.where(inside, np.where(seen & ~turned_away, 2, 1), 0)
        return keypoints, head_boxes


_RING = np.array([(0, 0), *((np.cos(a), np.sin(a)) for a in np.arange(8) * np.pi / 4)])


def _seen(
    joints: Floats, radii: Floats, ids: NDArray[np.uint16], first_id: int
) -> tuple[Bools, Bools]:
    """Which joints show themselves, and which are in the image; [17] each.

    Nine spots over the flesh around a joint are looked at: it is hidden when less than two of them
    belong to the limbs that meet in it.
    """
    height, width = ids.shape
    spots = np.rint(joints[:, None] + 0.7 * radii[:, None, None] * _RING).astype(int)
    x, y = spots[..., 0], spots[..., 1]
    valid = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    at = ids[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)].astype(int)
    part = at - first_id
    mine = valid & (part >= 0) & (part < IDS_PER_PERSON)
    own = mine & OWN_PARTS[np.arange(len(joints))[:, None], np.where(mine, part, 0)]
    inside = np.all((joints >= 0) & (joints <= (width - 1, height - 1)), axis=1)
    return own.sum(1) >= 2, np.asarray(inside)
