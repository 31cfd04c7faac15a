"""What surrounds synthetic people: a turning camera, a backdrop, occluders, image faults."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from posewarper.data.synthetic_figures import FAR, FIRST_OBJECT_ID, Canvas, Colour
from posewarper.data.synthetic_motion import GRID_RATE, Floats, smooth_noise

Image = NDArray[np.uint8]

_HORIZON = 0.42  # of the image's height
_CAMERA_HEIGHT = 1.1  # metres
_NEAREST = 0.4  # metres; nearer points are drawn as if they were here


class Camera:
    """A camera that stands and turns: pan, tilt, roll and zoom, with shake.

    As it only turns, one homography per instant moves everything alike, backdrop and people. The
    view that it starts from is the reference view; ``view`` says where its pixels are at a time.

    Args:
        rng: the source of every choice.
        frames: length of the video.
        size_wh: of the image in pixels.
        fps: frames per second.
        pan: amplitude of the slow movement, as a share of the width.
        shake: amplitude of the shake in blurred frames, as a share of the height.
        blurred: frames in which the camera is jerked, [frames].
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        frames: int,
        size_wh: tuple[int, int],
        fps: float,
        pan: float,
        shake: float,
        blurred: NDArray[np.bool_],
    ):
        width, height = size_wh
        self.size_wh = size_wh
        self.focal = 1.5 * height
        self.principal = np.array(((width - 1) / 2, _HORIZON * (height - 1)))
        self._margin = 2
        steps = (frames + 2 * self._margin) * GRID_RATE + 1
        seconds = np.arange(steps) / (fps * GRID_RATE)
        slow = smooth_noise(rng, seconds, 4, 0.05, 0.3)
        # Per frame, not per second: what matters is how much of it one exposure catches.
        moments = np.arange(steps) / GRID_RATE
        fast = smooth_noise(rng, moments, 4, 0.06, 0.16)
        jerk = smooth_noise(rng, moments, 4, 0.12, 0.24)
        # Jerks swell and fade around blurred frames; a cut would be a jump of the picture.
        jerked = np.repeat(np.pad(blurred, self._margin, mode="edge").astype(float), GRID_RATE)
        window = np.hanning(3 * GRID_RATE + 2)[1:-1]
        envelope = np.convolve(np.append(jerked, jerked[-1]), window / window.sum(), mode="same")
        handheld = 0.0015 * fast * height + shake * height * envelope[:, None] * jerk
        sizes = np.array((pan * width, 0.25 * pan * width, 0.0, 0.0))
        self._angles = (slow * sizes + handheld * (0.7, 0.7, 0.0, 0.0)) / self.focal
        self._angles[:, 2] = 0.012 * slow[:, 2] + 0.4 * handheld[:, 2] / self.focal
        self._angles[:, 3] = 0.02 * slow[:, 3]
        limit = 0.45 * pan + 0.16  # the backdrop ends there
        self._angles[:, :2] = np.clip(self._angles[:, :2], -limit, limit)

    def view(self, time: float) -> Floats:
        """Homography from the reference view to the image at a time in frames, [3, 3]."""
        place = (time + self._margin) * GRID_RATE
        low = int(np.clip(place, 0, len(self._angles) - 2))
        share = min(max(place - low, 0.0), 1.0)
        pan, tilt, roll, zoom = self._angles[low] * (1 - share) + self._angles[low + 1] * share
        c, s = np.cos((pan, tilt, roll)), np.sin((pan, tilt, roll))
        turn = np.array(((c[0], 0, s[0]), (0, 1, 0), (-s[0], 0, c[0])))
        nod = np.array(((1, 0, 0), (0, c[1], -s[1]), (0, s[1], c[1])))
        rock = np.array(((c[2], -s[2], 0), (s[2], c[2], 0), (0, 0, 1)))
        lens = np.array(
            ((self.focal, 0, self.principal[0]), (0, self.focal, self.principal[1]), (0, 0, 1))
        )
        closer = lens @ np.diag((1 + zoom, 1 + zoom, 1.0))
        view: Floats = closer @ rock @ nod @ turn @ np.linalg.inv(lens)
        return view

    def project(self, world: Floats, view: Floats) -> tuple[Floats, Floats]:
        """Points in metres to pixels [..., K, 2] and pixels per metre [..., K].

        Args:
            world: X, Y, Z, [..., K, 3].
            view: homographies from the reference view, [..., 3, 3].
        """
        depth = np.maximum(world[..., 2], _NEAREST)
        x = self.focal * world[..., 0] / depth + self.principal[0]
        y = self.focal * (_CAMERA_HEIGHT - world[..., 1]) / depth + self.principal[1]
        moved = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.swapaxes(view, -1, -2)
        pixels: Floats = np.clip(moved[..., :2] / moved[..., 2:], -FAR, FAR)
        zoom = np.sqrt(np.abs(np.linalg.det(view)))[..., None]
        return pixels, zoom * self.focal / depth


def _texture(
    rng: np.random.Generator, size_wh: tuple[int, int], finest: float, octaves: int = 4
) -> NDArray[np.float32]:
    """Smooth noise of several scales, about -1..1; ``finest`` in pixels; [H, W]."""
    width, height = size_wh
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cell = finest * 2**octave
        shape = (max(2, round(height / cell) + 1), max(2, round(width / cell) + 1))
        grid = rng.uniform(-1, 1, shape).astype(np.float32)
        total += cv2.resize(grid, size_wh, interpolation=cv2.INTER_CUBIC)
    scaled: NDArray[np.float32] = total / (2 * float(total.std()))
    return scaled


def _mirrored(place: Floats, size: float) -> NDArray[np.float32]:
    """Coordinates of a texture that is repeated by reflection, so that it has no seams."""
    return (size - np.abs(np.mod(place, 2 * size) - size)).astype(np.float32)


class Backdrop:
    """A wall with windows, posters and pipes above a tiled floor, wider than the image.

    Args:
        rng: the source of every choice.
        camera: whose reference view it is painted in.
        contrast: 0 is plain, 1 as strong as clothes.
    """

    def __init__(self, rng: np.random.Generator, camera: Camera, contrast: float):
        width, height = camera.size_wh
        self._pad = (round(0.6 * width), round(0.45 * height))
        size = (width + 2 * self._pad[0], height + 2 * self._pad[1])
        horizon = round(
            camera.principal[1] + self._pad[1] + 0.14 * height
        )  # where wall meets floor
        unit = height / 240
        # Muted colours: the people should stand out by shape, and the rooms differ in brightness.
        wall = rng.uniform(85, 180) + rng.uniform(-24, 24, 3)
        floor = rng.uniform(65, 165) + rng.uniform(-24, 24, 3)
        canvas = np.empty((size[1], size[0], 3), np.float32)
        canvas[:] = wall
        self._decorate(rng, canvas, horizon, wall, unit, contrast)
        canvas += (30 * contrast * _texture(rng, size, 2.5 * unit))[..., None]
        # The floor: tiles and stains in metres, seen in perspective.
        rows = np.arange(horizon, size[1], dtype=np.float64) - self._pad[1] - camera.principal[1]
        depth = camera.focal * _CAMERA_HEIGHT / rows
        columns = np.arange(size[0]) - self._pad[0] - camera.principal[0]
        ground_x = depth[:, None] * columns / camera.focal
        ground_z = np.broadcast_to(depth[:, None], ground_x.shape)
        tile = rng.uniform(0.5, 1.1)
        checker = (np.floor(ground_x / tile) + np.floor(ground_z / tile)) % 2 * 2 - 1
        stains = _texture(rng, (512, 512), 6)
        sampled = cv2.remap(
            stains,
            _mirrored(ground_x * 60, 511),
            _mirrored(ground_z * 60, 511),
            cv2.INTER_LINEAR,
        )
        # Tiles that are smaller than a pixel would flicker.
        fade = np.clip(2.2 - depth / 9, 0, 1)[:, None]
        shade = contrast * (14 * checker * fade * rng.uniform(0.2, 1) + 26 * sampled)
        canvas[horizon:] = floor + shade[..., None]
        edge = slice(horizon - max(1, round(2 * unit)), horizon)
        canvas[edge] *= 0.6
        self._image = cv2.GaussianBlur(np.clip(canvas, 0, 255).astype(np.uint8), (0, 0), 0.7 * unit)

    @staticmethod
    def _decorate(
        rng: np.random.Generator,
        canvas: NDArray[np.float32],
        bottom: int,
        wall: Floats,
        unit: float,
        contrast: float,
    ) -> None:
        """Distractors: rectangles, and rounded bars that resemble limbs, none of them a person."""
        for _ in range(int(rng.integers(9, 16))):
            colour = wall + contrast * (rng.uniform(20, 235, 3) - wall) * 0.65
            x, y = rng.uniform(0, canvas.shape[1]), rng.uniform(0, bottom)
            half = rng.uniform(8, 34, 2) * unit
            corner = (int(x - half[0]), int(y - half[1]))
            opposite = (int(x + half[0]), min(int(y + half[1]), bottom))
            cv2.rectangle(canvas, corner, opposite, colour.tolist(), cv2.FILLED)
            cv2.rectangle(canvas, corner, opposite, (colour * 0.6).tolist(), max(1, round(unit)))
        for _ in range(int(rng.integers(10, 20))):
            colour = wall + contrast * (rng.uniform(30, 235, 3) - wall) * 0.6
            start = np.array((rng.uniform(0, canvas.shape[1]), rng.uniform(0, bottom)))
            end = start + rng.normal(0, 26 * unit, 2)
            end[1] = min(end[1], bottom)
            a, b = start.astype(int).tolist(), end.astype(int).tolist()
            cv2.line(canvas, a, b, colour.tolist(), max(2, round(rng.uniform(3, 9) * unit)))

    def draw(self, view: Floats, size_wh: tuple[int, int]) -> Image:
        """The image with nobody in it, [H, W, 3]."""
        shift = np.array(((1, 0, -self._pad[0]), (0, 1, -self._pad[1]), (0, 0, 1.0)))
        drawn = cv2.warpPerspective(
            self._image, view @ shift, size_wh, flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )  # fmt: skip
        return np.asarray(drawn, np.uint8)


@dataclass(frozen=True)
class Thing:
    """A pole or a box that stands or slides along X, and hides who is behind it.

    Attributes:
        centre: X, Y, Z in metres at frame 0.
        half_size: half of its width and of its height, metres.
        velocity: metres per frame along X.
        stripes: bands across it; 0 for none.
    """

    centre: tuple[float, float, float]
    half_size: tuple[float, float]
    velocity: float
    colour: Colour
    second_colour: Colour
    stripes: int
    part_id: int

    @property
    def depth(self) -> float:
        """Distance from the camera in metres."""
        return self.centre[2]

    def draw(self, canvas: Canvas, camera: Camera, view: Floats, time: float) -> None:
        """Paint it as it is at a time in frames."""
        x, y, z = self.centre
        x += self.velocity * time
        corners = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1))) * self.half_size + (x, y)
        world = np.column_stack([corners, np.full(4, z)])
        quad, _ = camera.project(world, view)
        if quad[:, 0].max() < 0 or quad[:, 0].min() > camera.size_wh[0]:
            return
        canvas.fill(quad, _scaled(self.colour, 0.7), self.part_id)
        if canvas.image is None:
            return
        left, right = quad[[0, 3]], quad[[1, 2]]  # bottom and top corner of either side
        lit = np.stack([left[0], left[0] * 0.3 + right[0] * 0.7, left[1] * 0.3 + right[1] * 0.7,
                        left[1]])  # fmt: skip
        canvas.fill(lit, self.colour, None)
        for band in range(self.stripes):
            low, high = (2 * band + 0.5) / (2 * self.stripes), (2 * band + 1.4) / (2 * self.stripes)
            corners_of_band = ((left, low), (right, low), (right, high), (left, high))
            rows = [side[0] * (1 - share) + side[1] * share for side, share in corners_of_band]
            canvas.fill(np.stack(rows), self.second_colour, None)


def _scaled(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def random_things(
    rng: np.random.Generator,
    camera: Camera,
    *,
    amount: float,
    frames: int,
    fps: float,
    near: float,
    far: float,
) -> list[Thing]:
    """Occluders for one video.

    Args:
        rng: the source of every choice.
        camera: to place them in its view.
        amount: standing things on average, and as many that pass in front of everybody.
        frames: length of the video.
        fps: frames per second.
        near: Z in metres of the people who are nearest.
        far: Z in metres of those who are farthest.
    """
    half_view = camera.size_wh[0] / (2 * camera.focal)
    things: list[Thing] = []

    def add(
        x: float, z: float, half_width: float, bottom: float, top: float, velocity: float
    ) -> None:
        r, g, b = (rng.uniform(50, 190) + rng.uniform(-45, 45, 3)).tolist()
        r2, g2, b2 = (rng.uniform(50, 190) + rng.uniform(-45, 45, 3)).tolist()
        stripes = int(rng.integers(0, 6))
        part_id = FIRST_OBJECT_ID + len(things)
        middle, half = (bottom + top) / 2, (top - bottom) / 2
        things.append(
            Thing((x, middle, z), (half_width, half), velocity, (r, g, b), (r2, g2, b2),
                  stripes, part_id)
        )  # fmt: skip

    for _ in range(int(rng.poisson(amount))):
        z = float(rng.uniform(0.75 * near, 0.95 * far))
        x = float(rng.uniform(-0.8, 0.8)) * half_view * z
        if rng.random() < 0.6:
            add(x, z, float(rng.uniform(0.05, 0.13)), 0.0, 4.0, 0.0)
        else:
            add(x, z, float(rng.uniform(0.2, 0.45)), 0.0, float(rng.uniform(0.4, 0.95)), 0.0)
    for _ in range(int(rng.poisson(amount * frames / 60))):
        z = float(rng.uniform(0.6, 0.8)) * near
        crossing = float(rng.uniform(0.1, 0.9)) * frames  # when it is in the middle
        velocity = float(rng.choice([-1, 1]) * rng.uniform(1.5, 3.0)) / fps
        bottom = float(rng.uniform(-0.2, 0.9))
        half_width = float(rng.uniform(0.06, 0.17))
        top = bottom + float(rng.uniform(0.5, 1.2))
        add(-velocity * crossing, z, half_width, bottom, top, velocity)
    return things


class Lens:
    """Faults of the image: defocus, wandering light, flicker, noise.

    Args:
        rng: the source of every choice.
        frames: length of the video.
        size_wh: of the image in pixels.
        fps: frames per second.
        defocus: radius of the blur in pixels, [frames]; 0 is sharp.
        flicker: standard deviation of the brightness from frame to frame; 0.05 is 5 %.
        noise: standard deviation in grey levels of 255.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        frames: int,
        size_wh: tuple[int, int],
        fps: float,
        defocus: Floats,
        flicker: float,
        noise: float,
    ):
        width, height = size_wh
        self._size_wh, self._defocus = size_wh, defocus
        seconds = np.arange(frames) / fps
        self._gain = 1 + 0.5 * flicker * smooth_noise(rng, seconds, 1, 0.1, 0.6)[:, 0]
        self._gain *= np.clip(1 + flicker * rng.standard_normal(frames), 0.6, 1.4)
        # Light and shadow that wander across: a window of a larger map.
        light = _texture(rng, (2 * width, height), height / 3, 2)
        self._light = cv2.merge([np.clip(1 + 0.16 * light, 0.55, 1.4)] * 3)
        wander = smooth_noise(rng, seconds, 1, 0.05, 0.25)[:, 0]
        self._light_x = np.clip(np.rint((0.5 + 0.25 * wander) * width), 0, width).astype(int)
        # Fresh noise for each frame is slow; each takes another window of one sheet.
        self._extra = 64
        sheet = rng.standard_normal((height + self._extra, width + self._extra, 3))
        self._noise = np.rint(noise * sheet).astype(np.int16)
        self._noise_at = rng.integers(0, self._extra + 1, (frames, 2))

    def apply(self, image: Image, frame: int) -> Image:
        """The image as recorded, [H, W, 3]."""
        width, height = self._size_wh
        radius = float(self._defocus[frame])
        if radius > 0:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), radius), np.uint8)
        x = self._light_x[frame]
        light = self._light[:, x : x + width]
        lit = cv2.multiply(image, light, scale=float(self._gain[frame]), dtype=cv2.CV_8U)
        row, column = self._noise_at[frame]
        noise = self._noise[row : row + height, column : column + width]
        return np.asarray(cv2.add(lit, noise, dtype=cv2.CV_8U), np.uint8)
