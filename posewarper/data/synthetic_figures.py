"""How synthetic people are drawn: shaded, tapered limbs in depth order, in colour and as part ids.

The sides of a person are told by shape only: face, shirt front, toes and the order of overlap. Left
and right limbs have the same colours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from posewarper.data.synthetic_motion import (
    CHEST,
    HEAD,
    JOINTS,
    LEFT_HAND,
    LEFT_TOE,
    PELVIS,
    POINTS,
    RIGHT_HAND,
    RIGHT_TOE,
    Body,
    Floats,
    Posture,
)

Colour = tuple[float, float, float]  # red, green, blue

_SHIFT = 4  # bits of a pixel's fraction in OpenCV's fixed-point coordinates
FAR = 16000.0  # pixels; coordinates beyond twice of it overflow OpenCV's drawing

# Parts: name, the points that they connect, radii at both ends as shares of the height, and a bias
# of depth in metres (negative: drawn later) for parts whose order would flicker otherwise.
_PARTS: tuple[tuple[str, int, int, float, float, float], ...] = (
    ("pelvis", 11, 12, 0.052, 0.052, 0.03),
    ("neck", CHEST, 1, 0.034, 0.029, 0.05),
    ("left_upper_arm", 5, 7, 0.032, 0.025, -0.03),
    ("right_upper_arm", 6, 8, 0.032, 0.025, -0.03),
    ("left_forearm", 7, 9, 0.025, 0.018, -0.035),
    ("right_forearm", 8, 10, 0.025, 0.018, -0.035),
    ("left_hand", 9, LEFT_HAND, 0.018, 0.022, -0.034),
    ("right_hand", 10, RIGHT_HAND, 0.018, 0.022, -0.034),
    ("left_thigh", 11, 13, 0.05, 0.034, 0.02),
    ("right_thigh", 12, 14, 0.05, 0.034, 0.02),
    ("left_shin", 13, 15, 0.033, 0.022, 0.015),
    ("right_shin", 14, 16, 0.033, 0.022, 0.015),
    ("left_foot", 15, LEFT_TOE, 0.025, 0.019, 0.02),
    ("right_foot", 16, RIGHT_TOE, 0.025, 0.019, 0.02),
)
_CAPSULES = len(_PARTS)
TORSO, HEAD_PART, BACKPACK = _CAPSULES, _CAPSULES + 1, _CAPSULES + 2
IDS_PER_PERSON = 32  # ids of person p start at 1 + 32 * p; 0 is the background
FIRST_OBJECT_ID = 60000  # from here on ids belong to things

# What takes one place in the order of depth.
_GROUPS: tuple[tuple[int, ...], ...] = (
    (0,), (1,), (2, 4, 6), (3, 5, 7), (8, 10, 12), (9, 11, 13), (TORSO,), (HEAD_PART,), (BACKPACK,)
)  # fmt: skip
_STRIPED = (2, 3)  # upper arms

_START = np.array([part[1] for part in _PARTS])
_END = np.array([part[2] for part in _PARTS])
_RADII = np.array([part[3:5] for part in _PARTS])
_BIAS = np.array([part[5] for part in _PARTS])
_NAMES = tuple(part[0] for part in _PARTS)


def _own_parts() -> NDArray[np.bool_]:
    """Which parts show a joint: those that meet there; [JOINTS, IDS_PER_PERSON]."""
    own = np.zeros((POINTS, IDS_PER_PERSON), bool)
    own[_START, np.arange(_CAPSULES)] = True
    own[_END, np.arange(_CAPSULES)] = True
    own[[0, 1, 2, 3, 4], HEAD_PART] = True
    own[[1, 5, 6, 11, 12], TORSO] = True
    return own[:JOINTS]


OWN_PARTS = _own_parts()
# Half the width of the flesh around each joint, as a share of the height: where to look for it.
JOINT_RADII = np.array(
    [0.02, 0.025, 0.015, 0.015, 0.015, 0.03, 0.03, 0.022, 0.022, 0.017, 0.017, 0.03, 0.03, 0.03,
     0.03, 0.022, 0.022]
)  # fmt: skip


@dataclass
class Canvas:
    """What is drawn on: a colour image [H, W, 3] uint8, or part ids [H, W] uint16."""

    image: NDArray[np.uint8] | None = None
    ids: NDArray[np.uint16] | None = None

    def fill(
        self, polygon: Floats | NDArray[np.int32], colour: Colour, part_id: int | None
    ) -> None:
        """A convex polygon [n, 2] in pixels, or in fixed point where the numbers are integers.

        With ``part_id`` None it is a mark that has no id of its own.
        """
        corners = _fixed(polygon)
        if self.image is not None:
            cv2.fillConvexPoly(self.image, corners, colour, cv2.LINE_AA, _SHIFT)
        if self.ids is not None and part_id is not None:
            cv2.fillConvexPoly(self.ids, corners, part_id, cv2.LINE_8, _SHIFT)

    def line(self, start: Floats, end: Floats, colour: Colour, width: float) -> None:
        """A mark between two points [2]; it has no id."""
        if self.image is not None:
            a, b = _fixed(start).tolist(), _fixed(end).tolist()
            cv2.line(self.image, a, b, colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)

    def disc(self, centre: Floats, radius: float, colour: Colour) -> None:
        """A mark around a point [2]; it has no id."""
        if self.image is not None:
            size = max(1, round(radius * (1 << _SHIFT)))
            cv2.circle(
                self.image, _fixed(centre).tolist(), size, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT
            )


def _fixed(points: Floats | NDArray[np.int32]) -> NDArray[np.int32]:
    """To OpenCV's fixed point, in which integers already are. Its pixel centres are whole numbers,
    as those of the joints are.
    """
    if points.dtype == np.int32:
        return np.asarray(points, np.int32)
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _hull(points: Floats) -> Floats:
    """Corners of the convex hull, [n, 2] -> [m, 2]."""
    return np.asarray(cv2.convexHull(points.astype(np.float32)), np.float64)[:, 0]


def capsules(
    start: Floats, end: Floats, start_radius: Floats, end_radius: Floats, corners: int = 7
) -> Floats:
    """Outlines of limbs: the hull of two circles each; [..., 2], [...] -> [..., 2 * corners, 2]."""
    axis = end - start
    length = np.maximum(np.linalg.norm(axis, axis=-1), 1e-6)
    # A limb that points at the camera: one circle lies inside the other and must leave no trace.
    end_hidden, start_hidden = (
        start_radius - end_radius >= length,
        end_radius - start_radius >= length,
    )
    start, end = (
        np.where(start_hidden[..., None], end, start), np.where(end_hidden[..., None], start, end)
    )  # fmt: skip
    start_radius, end_radius = (
        np.where(start_hidden, end_radius, start_radius),
        np.where(end_hidden, start_radius, end_radius),
    )
    angle = np.arctan2(axis[..., 1], axis[..., 0])
    half = np.arccos(np.clip((start_radius - end_radius) / length, -1, 1))
    share = np.linspace(0, 1, corners)
    around_end = angle[..., None] - half[..., None] * (1 - 2 * share)
    around_start = (angle + half)[..., None] + 2 * (np.pi - half)[..., None] * share

    def arc(centre: Floats, radius: Floats, angles: Floats) -> Floats:
        offsets = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        arc_points: Floats = centre[..., None, :] + radius[..., None, None] * offsets
        return arc_points

    return np.concatenate(
        [arc(end, end_radius, around_end), arc(start, start_radius, around_start)], axis=-2
    )


@dataclass(frozen=True)
class Look:
    """Clothes, skin and hair of a person.

    Attributes:
        part_colours: base colour of each capsule, [parts, 3].
        stripes: for how many parts of the torso's height there is a stripe; 0 is a plain shirt.
    """

    part_colours: Floats
    shirt: Colour
    print_colour: Colour
    skin: Colour
    hair: Colour
    stripes: int
    backpack: Colour | None

    @classmethod
    def random(cls, rng: np.random.Generator) -> Look:
        """Clothes in any colour, sleeves and trousers long or short, with or without a backpack."""

        def cloth(low: float = 0.2, high: float = 0.95) -> Colour:
            hue, saturation = rng.uniform(0, 180), rng.uniform(0.1, 0.85)
            pixel = np.array([[[hue, 255 * saturation, 255 * rng.uniform(low, high)]]], np.uint8)
            return _colour(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0])

        shirt, trousers, shoes, print_colour = cloth(0.3), cloth(0.15, 0.7), cloth(), cloth()
        if abs(sum(shirt) - sum(print_colour)) < 150:  # a print that nobody can see is none
            print_colour = (235.0, 235.0, 235.0) if sum(shirt) < 380 else (35.0, 25.0, 30.0)
        tone = rng.uniform(0.35, 1.0)
        skin = (235 * tone, 180 * tone, 150 * tone)
        grey = rng.uniform(15, 90)
        hair = (grey * rng.uniform(1, 1.9), grey, grey * rng.uniform(0.4, 1))
        long_sleeves, long_trousers = rng.random() < 0.5, rng.random() < 0.65
        colours = np.zeros((_CAPSULES, 3))
        for index, name in enumerate(_NAMES):
            kind = name.removeprefix("left_").removeprefix("right_")
            colours[index] = {
                "upper_arm": shirt,
                "forearm": shirt if long_sleeves else skin,
                "pelvis": trousers,
                "thigh": trousers,
                "shin": trousers if long_trousers else skin,
                "foot": shoes,
            }.get(kind, skin)
        backpack = cloth() if rng.random() < 0.3 else None
        stripes = int(rng.integers(3, 6)) if rng.random() < 0.4 else 0
        return cls(colours, shirt, print_colour, skin, hair, stripes, backpack)


def _colour(values: NDArray[np.generic] | Colour, factor: float = 1.0) -> Colour:
    r, g, b = (min(255.0, float(v) * factor) for v in values)
    return r, g, b


class Figure:
    """One person at N instants, projected and ready to draw.

    Args:
        body: proportions.
        look: clothes.
        posture: N instants in the world.
        pixels: the points in the image, [N, POINTS, 2].
        per_metre: pixels per metre at each point, [N, POINTS].
        first_id: id of the person's part 0.
    """

    def __init__(
        self,
        body: Body,
        look: Look,
        posture: Posture,
        pixels: Floats,
        per_metre: Floats,
        first_id: int,
    ):
        self._body, self._look, self._first_id = body, look, first_id
        self.points, self.scale = pixels, per_metre
        world = posture.points
        # Directions from the camera, which is at X = Z = 0: what faces it has a negative product.
        away = world[:, CHEST] * (1, 0, 1)
        self.away = away / np.linalg.norm(away, axis=1, keepdims=True)
        self._forward, self._axes = posture.torso_forward, posture.head_axes
        self.depth = np.linalg.norm((world[:, CHEST] + world[:, PELVIS])[:, ::2] / 2, axis=1)
        part_depth = (world[:, _START, 2] + world[:, _END, 2]) / 2
        torso_depth = world[:, [5, 6, 11, 12], 2].mean(1)
        head_depth = world[:, HEAD, 2]
        back_depth = torso_depth - 0.16 * self._forward[:, 2]
        radii = _RADII * body.height * body.girth
        self._start_radius = radii[:, 0] * per_metre[:, _START]
        self._end_radius = radii[:, 1] * per_metre[:, _END]
        others = np.stack([torso_depth, head_depth, back_depth], axis=1)
        depths = np.concatenate([part_depth + _BIAS, others], axis=1)
        grouped = np.stack([depths[:, group].mean(1) for group in _GROUPS], axis=1)
        self._order = np.argsort(-grouped, axis=1)
        self._depths = depths
        # Limbs on the far side get less light; this also tells near from far.
        behind = np.clip((depths - torso_depth[:, None]) / 0.3, -0.3, 1)
        self._light = 1.0 - 0.28 * behind
        self._outer = _fixed(
            capsules(pixels[:, _START], pixels[:, _END], self._start_radius, self._end_radius)
        )
        self._layers = []
        for share, offset in ((0.74, 0.16), (0.34, 0.34)):  # towards the light, upper left
            move = -offset * np.stack([self._start_radius, self._end_radius], 2)[..., None]
            move = move * (0.75, 0.6)
            layer = capsules(
                pixels[:, _START] + move[:, :, 0],
                pixels[:, _END] + move[:, :, 1],
                share * self._start_radius,
                share * self._end_radius,
                4,
            )
            self._layers.append(_fixed(layer))

    def draw(self, canvas: Canvas, instant: int) -> None:
        """Paint the person as it is at one of the N instants."""
        for group in self._order[instant].tolist():
            parts = _GROUPS[group]
            if parts[0] < _CAPSULES:
                self._draw_limb(canvas, instant, parts)
            elif parts[0] == TORSO:
                self._draw_torso(canvas, instant)
            elif parts[0] == HEAD_PART:
                self._draw_head(canvas, instant)
            elif self._look.backpack is not None:
                self._draw_backpack(canvas, instant)

    def _draw_limb(self, canvas: Canvas, i: int, parts: tuple[int, ...]) -> None:
        """Pieces of one colour each, the nearest last; sleeves and trousers lie on top of skin."""
        look, depths = self._look, self._depths[i]
        pieces: list[list[int]] = []
        for part in parts:
            if pieces and (look.part_colours[pieces[-1][0]] == look.part_colours[part]).all():
                pieces[-1].append(part)
            else:
                pieces.append([part])
        cloth_first = {piece[0]: 0.02 * place for place, piece in enumerate(pieces)}
        pieces.sort(key=lambda piece: -float(depths[piece].mean()) - cloth_first[piece[0]])
        for piece in pieces:
            self._draw_piece(canvas, i, sorted(piece, key=lambda part: -depths[part]))

    def _draw_piece(self, canvas: Canvas, i: int, parts: list[int]) -> None:
        """Outlines of all its parts, then what is inside of them: no outline crosses a joint."""
        look = self._look
        for part in parts:
            colour = _colour(look.part_colours[part], 0.62 * float(self._light[i, part]))
            canvas.fill(self._outer[i, part], colour, self._first_id + part)
        if canvas.image is None:
            return
        for layer, factor in zip(self._layers, (1.0, 1.18), strict=True):
            for part in parts:
                colour = _colour(look.part_colours[part], factor * float(self._light[i, part]))
                canvas.fill(layer[i, part], colour, None)
                if part in _STRIPED and look.stripes and factor == 1.0:
                    self._draw_sleeve_stripes(canvas, i, part)

    def _draw_sleeve_stripes(self, canvas: Canvas, i: int, part: int) -> None:
        start, end = self.points[i, _START[part]], self.points[i, _END[part]]
        axis = end - start
        length = max(float(np.linalg.norm(axis)), 1e-6)
        across = 0.5 * self._end_radius[i, part] * np.array((-axis[1], axis[0])) / length
        colour = _colour(self._look.print_colour, 0.9 * float(self._light[i, part]))
        for share in (0.3, 0.75):
            middle = start + share * axis
            canvas.line(middle - across, middle + across, colour, 0.15 * length)

    def _torso_frame(self, i: int) -> tuple[Floats, Floats, Floats, float]:
        """Middle of the shoulders and of the hips, half shoulder axis (all [2]), pixels per m."""
        p = self.points[i]
        return (p[5] + p[6]) / 2, (p[11] + p[12]) / 2, (p[5] - p[6]) / 2, float(self.scale[i, 5])

    def _draw_torso(self, canvas: Canvas, i: int) -> None:
        top, bottom, _, scale = self._torso_frame(i)
        points = self.points[i]
        shoulders, hips = points[5:7], points[11:13]
        waist = hips + 0.16 * (top - bottom)
        unit = scale * self._body.height * self._body.girth
        ring = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        circle = np.stack([np.cos(ring), np.sin(ring)], axis=1)

        def hull(share: float, move: float) -> Floats:
            discs = [
                centre + circle * (radius * unit * share) - move * unit * np.array((0.045, 0.03))
                for centres, radius in ((shoulders, 0.04), (waist, 0.05))
                for centre in top * (1 - share) * 0.5 + centres * (0.5 + 0.5 * share)
            ]
            return _hull(np.concatenate(discs))

        # The hull shrinks towards the shoulders' middle, where the light comes from.
        light, look = float(self._light[i, TORSO]), self._look
        outer = hull(1.0, 0.0)
        canvas.fill(outer, _colour(look.shirt, 0.68 * light), self._first_id + TORSO)
        if canvas.image is None:
            return
        canvas.fill(hull(0.8, 0.1), _colour(look.shirt, light), None)
        canvas.fill(hull(0.45, 0.3), _colour(look.shirt, 1.1 * light), None)
        halves = (shoulders[0] - shoulders[1]) / 2, (waist[0] - waist[1]) / 2
        flesh = 0.026 * unit  # the stripe's round ends reach a little further
        for stripe in range(look.stripes):
            share = (stripe + 0.5) / look.stripes * 0.85
            middle = top + (bottom - top) * share
            half = halves[0] * (1 - share) + halves[1] * share
            across = half + np.sign(half[0] or 1.0) * np.array((flesh, 0.0))
            colour = _colour(look.print_colour, 0.9 * light)
            canvas.line(middle - across, middle + across, colour, unit * 0.018)
        facing = -float(self._forward[i] @ self.away[i])
        if facing > 0.12:
            self._draw_shirt_front(canvas, i, facing, unit, light)

    def _draw_shirt_front(
        self, canvas: Canvas, i: int, facing: float, unit: float, light: float
    ) -> None:
        """A neckline in skin colour and a printed patch, on the chest only."""
        top, bottom, half, _ = self._torso_frame(i)
        down = bottom - top
        sideways = np.array((self._forward[i, 0] * 0.05 * unit, 0.0))  # the chest bulges
        neck = top + sideways * 0.8
        corners = [neck - half * 0.3, neck + half * 0.3, neck + down * 0.16 + sideways * 0.2]
        canvas.fill(np.stack(corners), _colour(self._look.skin, 0.9 * light), None)
        if self._look.stripes == 0:
            a, b = top + down * 0.28 + sideways, top + down * 0.62 + sideways
            wide = half * 0.5
            patch = np.stack([a - wide, a + wide, b + wide * 0.8, b - wide * 0.8])
            canvas.fill(patch, _colour(self._look.print_colour, light), None)

    def _draw_backpack(self, canvas: Canvas, i: int) -> None:
        top, bottom, half, scale = self._torso_frame(i)
        down = bottom - top
        metres = 0.13 * self._body.height / 1.7
        centre = top - np.array((self._forward[i, 0] * metres * scale, 0.0))
        ends = np.stack([centre + down * 0.22, centre + down * 0.6])
        wide = 0.08 * scale + 0.3 * float(np.linalg.norm(half))
        radius = np.array([0.8 * wide, wide])
        part_id = self._first_id + BACKPACK
        assert self._look.backpack is not None
        for share, factor in ((1.0, 0.6), (0.75, 1.0)):
            outline = capsules(ends[0], ends[1], radius[0] * share, radius[1] * share)
            canvas.fill(outline, _colour(self._look.backpack, factor), part_id)

    def _draw_head(self, canvas: Canvas, i: int) -> None:
        """A ball of hair with a cap of skin on its front, eyes, mouth, nose and ears."""
        forward, _left, up = self._axes[i]
        centre, scale = self.points[i, HEAD], float(self.scale[i, HEAD])
        radius = 0.5 * self._body.head * scale
        away, look = self.away[i], self._look
        light = float(self._light[i, HEAD_PART])
        right = np.array((away[2], 0.0, -away[0]))  # the image's x axis in the world

        def place(direction: Floats) -> Floats:
            """Where the surface point in this direction appears, [..., 3] -> [..., 2]."""
            flat = np.stack([direction @ right, -direction[..., 1]], axis=-1)
            spot: Floats = centre + radius * flat * (0.84, 1.0)
            return spot

        up_flat = place(up) - centre
        outline = capsules(
            centre + 0.14 * up_flat, centre - 0.14 * up_flat, *np.full((2, 1), 0.86 * radius)[:, 0]
        )
        part_id = self._first_id + HEAD_PART
        canvas.fill(outline, _colour(look.hair, light), part_id)
        if canvas.image is not None:
            self._draw_face(canvas, place, i, centre, radius)
        if forward @ away < 0.25:  # in profile the nose stands out of the ball
            bridge = place(forward * 0.9 + 0.06 * up)
            shape = capsules(bridge, self.points[i, 0], *np.array([0.07, 0.13]) * radius)
            canvas.fill(shape, _colour(look.skin, 0.6 * light), part_id)

    def _draw_face(
        self,
        canvas: Canvas,
        place: Callable[[Floats], Floats],
        i: int,
        centre: Floats,
        radius: float,
    ) -> None:
        """Skin, ears, eyes and mouth, as far as they are on the side that is seen."""
        forward, left, up = self._axes[i]
        away, skin = self.away[i], self._look.skin
        light = float(self._light[i, HEAD_PART])
        ring = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        cap = []
        for angle in (0.25, 0.7, 1.1, 1.4):
            spread = np.sin(angle)
            tilt = forward * np.cos(angle)
            cap.append(
                tilt
                + spread * (np.cos(ring)[:, None] * left + np.sin(ring)[:, None] * up)
                - 0.22 * up
            )
        surface = np.concatenate(cap)
        surface /= np.linalg.norm(surface, axis=1, keepdims=True)
        seen = surface[surface @ away < 0]
        if len(seen) >= 6:
            face = _hull(place(seen))
            canvas.fill(face, _colour(skin, 0.78 * light), None)
            inner = (face - centre) * 0.84 + centre - np.array((0.06, 0.04)) * radius
            canvas.fill(inner, _colour(skin, light), None)
        for sign in (1, -1):
            ear = sign * left * 0.98 - 0.08 * up
            if ear @ away < 0.15:
                canvas.disc(place(ear), 0.17 * radius, _colour(skin, 0.68 * light))
            eye = forward * 0.86 + sign * left * 0.38 + 0.12 * up
            if eye @ away < -0.12:
                canvas.disc(place(eye), 0.13 * radius, (30.0, 25.0, 25.0))
        mouth = forward * 0.88 - 0.48 * up
        if mouth @ away < -0.15:
            a, b = (place(mouth + s * 0.26 * left) for s in (1, -1))
            canvas.line(a, b, (120.0, 40.0, 50.0), 0.12 * radius)
