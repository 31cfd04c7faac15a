"""How synthetic people are built and how they move: proportions, activities, joints in metres.

World coordinates: X to the right, Y up, Z away from the camera, in metres; the ground is Y = 0.
A person that walks to the right of the image (heading 0) has the left side away from the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posewarper.skeleton import POSETRACK

Floats = NDArray[np.float64]

JOINTS = len(POSETRACK)
# Points beside the 17 joints that the drawing needs.
HEAD, CHEST, PELVIS, LEFT_HAND, RIGHT_HAND, LEFT_TOE, RIGHT_TOE = range(JOINTS, JOINTS + 7)
POINTS = JOINTS + 7

GRID_RATE = 8  # states stored per frame; between them linear interpolation
_MARGIN = 2  # frames of motion before the first and after the last, for exposures that reach out

# An activity is a point in this space and a motion a smooth path through it, so that any blend of
# two activities is a plausible one. Angles in radians, cadence in cycles/s, flight in metres.
_PARAMETERS = (
    "stride", "cadence", "knee_lift", "knee_bend", "arm_swing", "elbow", "lean", "flight",
    "open_legs", "left_arm", "right_arm", "sway", "squat", "free", "spin",
)  # fmt: skip
_ACTIVITIES: dict[str, dict[str, float]] = {
    "walk": {
        "stride": 0.42, "cadence": 0.95, "knee_lift": 0.95, "knee_bend": 0.12, "arm_swing": 0.5,
        "elbow": 0.35, "lean": 0.04, "free": 0.1,
    },
    "run": {
        "stride": 0.68, "cadence": 1.35, "knee_lift": 1.7, "knee_bend": 0.3, "arm_swing": 0.8,
        "elbow": 1.5, "lean": 0.18, "flight": 0.07, "free": 0.08,
    },
    "jump": {
        "cadence": 1.0, "knee_bend": 0.15, "elbow": 0.25, "flight": 0.16, "open_legs": 0.42,
        "left_arm": 2.5, "right_arm": 2.5, "free": 0.1,
    },
    "wave": {
        "cadence": 0.5, "knee_bend": 0.08, "elbow": 0.7, "right_arm": 2.2, "sway": 0.8,
        "free": 0.25,
    },
    "turn": {
        "cadence": 0.6, "stride": 0.12, "knee_lift": 0.5, "knee_bend": 0.15, "arm_swing": 0.15,
        "elbow": 0.5, "spin": 2.2, "free": 0.5,
    },
    "dance": {
        "cadence": 0.9, "knee_bend": 0.3, "elbow": 0.9, "squat": 0.35, "open_legs": 0.12,
        "left_arm": 0.8, "right_arm": 0.8, "free": 0.85, "sway": 0.3,
    },
}  # fmt: skip
_WALKING = {"walk", "run"}


@dataclass(frozen=True)
class Body:
    """Lengths of a person in metres; widths of limbs follow ``girth``."""

    height: float
    thigh: float
    shin: float
    spine: float
    neck: float
    head: float
    shoulders: float
    hips: float
    upper_arm: float
    forearm: float
    girth: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> Body:
        """Proportions of an adult or a child, each length varied by some per cent."""
        height = float(rng.uniform(1.5, 1.95))

        def length(share: float, spread: float = 0.05) -> float:
            return float(height * share * np.clip(rng.normal(1.0, spread), 0.85, 1.15))

        return cls(
            height, length(0.235), length(0.225), length(0.285), length(0.055), length(0.145),
            length(0.205, 0.08), length(0.11, 0.08), length(0.17), length(0.145),
            float(rng.uniform(0.85, 1.25)),
        )  # fmt: skip


@dataclass(frozen=True)
class Posture:
    """A person at N instants.

    Attributes:
        points: the joints and then HEAD .. RIGHT_TOE, metres, [N, POINTS, 3].
        head_axes: unit vectors forward, left, up of the head, [N, 3, 3].
        torso_forward: unit vector out of the chest, [N, 3].
    """

    points: Floats
    head_axes: Floats
    torso_forward: Floats


def smooth_noise(
    rng: np.random.Generator, times: Floats, channels: int, low_hz: float, high_hz: float
) -> Floats:
    """Sums of four sinusoids with random frequencies and phases, about unit size; [T, channels]."""
    frequency = rng.uniform(low_hz, high_hz, (4, channels))
    phase = rng.uniform(0, 2 * np.pi, (4, channels))
    waves = np.sin(2 * np.pi * frequency[:, None] * times[None, :, None] + phase[:, None])
    result: Floats = waves.sum(0) / np.sqrt(2.0)
    return result


def _smoothed(steps: Floats, width: int) -> Floats:
    """Running Hann-weighted mean along axis 0, ends repeated; [T, C] -> [T, C]."""
    window = np.hanning(width + 2)[1:-1]
    padded = np.pad(steps, ((width // 2, width - 1 - width // 2), (0, 0)), mode="edge")
    columns = [np.convolve(column, window / window.sum(), mode="valid") for column in padded.T]
    return np.stack(columns, axis=1)


class Motion:
    """One person's movement over a video, evaluated at any time.

    Args:
        rng: the source of every choice.
        frames: length of the video.
        fps: frames per second.
        speed: 1 is natural; 2 plays the same movement twice as fast.
        near: Z in metres of the nearest point of the person's lane.
        far: Z of its farthest point.
        half_view: half the visible width at Z = 1.
        start: where the path begins, -1 to 1 from the left to the right of the view.
        leaves: whether paths may begin and end outside the image.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        frames: int,
        fps: float,
        speed: float,
        near: float,
        far: float,
        half_view: float,
        start: float,
        leaves: bool,
    ):
        self.body = Body.random(rng)
        steps = (frames + 2 * _MARGIN) * GRID_RATE + 1
        self._dt = speed / (fps * GRID_RATE)
        times: Floats = np.arange(steps, dtype=np.float64) * self._dt
        parameters, walks = self._activities(rng, steps)
        self._path(rng, parameters, walks, near, far, half_view, start, leaves)
        cadence = parameters[:, _PARAMETERS.index("cadence")]
        phase = np.cumsum(cadence) * (2 * np.pi * self._dt) + rng.uniform(0, 2 * np.pi)
        noise = smooth_noise(rng, times, 12, 0.15, 0.9)
        self._state = np.column_stack([parameters, self._root, phase, noise])

    def _activities(self, rng: np.random.Generator, steps: int) -> tuple[Floats, Floats]:
        """The path through the parameters [T, 15], and the share of walking in it [T]."""
        rows = np.zeros((steps, len(_PARAMETERS)))
        walks = np.zeros((steps, 1))
        position, previous = 0, ""
        while position < steps:
            choices = [name for name in _ACTIVITIES if name != previous]
            weights = np.array([2.0 if name in _WALKING else 1.0 for name in choices])
            previous = str(rng.choice(choices, p=weights / weights.sum()))
            end = position + int(rng.uniform(1.2, 3.2) / self._dt)
            values = dict(_ACTIVITIES[previous])
            if previous == "wave" and rng.random() < 0.5:
                values["left_arm"] = values.pop("right_arm")
            if previous in ("turn", "dance"):
                values["spin"] = float(rng.choice([-1, 1])) * values.get("spin", 0.5)
            for key, value in values.items():
                rows[position:end, _PARAMETERS.index(key)] = value * rng.uniform(0.85, 1.15)
            walks[position:end] = previous in _WALKING
            position = end
        width = int(0.5 / self._dt)
        return _smoothed(rows, width), _smoothed(walks, width)[:, 0]

    def _path(
        self,
        rng: np.random.Generator,
        parameters: Floats,
        walks: Floats,
        near: float,
        far: float,
        half_view: float,
        start: float,
        leaves: bool,
    ) -> None:
        """Walks from waypoint to waypoint; step length and cadence give the speed, so that the
        feet hardly slide. Sets ``_root``: X, Z, heading, [T, 3].
        """
        columns = {name: parameters[:, i].tolist() for i, name in enumerate(_PARAMETERS)}
        leg = self.body.thigh + self.body.shin

        def waypoint(outside: bool) -> tuple[float, float]:
            z = float(rng.uniform(near, far))
            reach = 1.35 if outside else 0.75
            x = float(rng.uniform(-1, 1)) if not outside else float(rng.choice([-1, 1]))
            return x * reach * half_view * z, z

        x, z = waypoint(leaves and rng.random() < 0.5)
        if abs(x) < half_view * z:
            x = 0.8 * start * half_view * z
        goal_x, goal_z = waypoint(False)
        heading = float(np.arctan2(goal_z - z, goal_x - x)) + float(rng.normal(0, 0.3))
        facing = float(rng.uniform(-np.pi, 0.0))  # towards the camera more often than away from it
        rows = np.empty((len(walks), 3))
        for step, walking in enumerate(walks.tolist()):
            rows[step] = x, z, heading
            aim = float(np.arctan2(goal_z - z, goal_x - x))
            target = walking * aim + (1 - walking) * facing
            error = (target - heading + np.pi) % (2 * np.pi) - np.pi
            free = 1.0 - abs(columns["spin"][step]) / 2.5
            rate = min(max(2.5 * error, -2.6), 2.6) * (0.3 + 0.7 * walking) * max(free, 0.0)
            heading += self._dt * (rate + columns["spin"][step])
            # Walking starts only once the person faces the way, else the path makes wide loops.
            ahead = max(0.0, float(np.cos(heading - aim)))
            pace = 4 * leg * np.sin(columns["stride"][step]) * columns["cadence"][step]
            pace *= walking * ahead
            x += self._dt * pace * float(np.cos(heading))
            z += self._dt * pace * float(np.sin(heading))
            if (goal_x - x) ** 2 + (goal_z - z) ** 2 < 0.2:
                goal_x, goal_z = waypoint(leaves and rng.random() < 0.4)
                facing = float(rng.uniform(-np.pi, 0.0))
        self._root = rows

    def at(self, times: Floats) -> Posture:
        """The posture at ``times`` in frames (fractions allowed), [N]."""
        place = (np.asarray(times, float) + _MARGIN) * GRID_RATE
        place = np.clip(place, 0, len(self._state) - 1.001)
        low = place.astype(int)
        share = (place - low)[:, None]
        state = self._state[low] * (1 - share) + self._state[low + 1] * share
        count = len(_PARAMETERS)
        value = dict(zip(_PARAMETERS, state[:, :count].T, strict=True))
        root, phase, noise = state[:, count : count + 3], state[:, count + 3], state[:, count + 4 :]
        return _posture(self.body, value, root, phase, noise)


def _posture(
    body: Body, value: dict[str, Floats], root: Floats, phase: Floats, noise: Floats
) -> Posture:
    """Forward kinematics; the body frame is (forward, left, up)."""
    count = len(phase)
    free = value["free"]
    beat = 0.5 - 0.5 * np.cos(2 * np.pi * _triangle(phase))  # 0..1..0 in each cycle
    points = np.zeros((count, POINTS, 3))

    def direction(flexion: Floats, outward: Floats) -> Floats:
        """Unit vector of a limb that hangs down at (0, 0); [N, 3]."""
        return np.stack(
            (
                np.sin(flexion),
                np.cos(flexion) * np.sin(outward),
                -np.cos(flexion) * np.cos(outward),
            ),
            axis=1,
        )

    # Spine, shoulders (they turn against the pelvis) and head.
    twist = 0.35 * value["arm_swing"] * np.sin(phase) + 0.3 * free * noise[:, 0]
    lean = value["lean"] + 0.5 * value["squat"] * beat + 0.2 * free * noise[:, 1]
    side = 0.04 * np.sin(phase) + 0.25 * free * noise[:, 2]
    spine = direction(lean, side) * (1, 1, -1)
    shoulder_axis = np.stack([-np.sin(twist), np.cos(twist), 0.1 * np.sin(side + twist)], axis=1)
    chest = body.spine * spine
    head_turn = 0.5 * noise[:, 3]
    head_nod = 0.5 * lean + 0.18 * noise[:, 4]
    up = direction(head_nod, 0.5 * side + 0.1 * noise[:, 5]) * (1, 1, -1)
    forward = np.stack([np.cos(twist + head_turn), np.sin(twist + head_turn), 0 * twist], axis=1)
    forward -= up * (forward * up).sum(1, keepdims=True)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    left = np.cross(up, forward)
    neck = chest + body.neck * spine
    centre = neck + 0.52 * body.head * up
    radius = 0.5 * body.head
    points[:, 0] = centre + radius * (0.95 * forward - 0.12 * up)
    points[:, 1] = neck
    points[:, 2] = neck + body.head * up
    points[:, 3] = centre + 0.72 * radius * left - 0.05 * radius * up
    points[:, 4] = centre - 0.72 * radius * left - 0.05 * radius * up
    points[:, HEAD] = centre
    points[:, CHEST] = chest

    lowest = np.full(count, np.inf)
    for index, sign in enumerate((1.0, -1.0)):  # left, right
        swing = phase + np.pi * index
        # Leg: the knee bends most when the thigh passes forward.
        hip = np.zeros((count, 3))
        hip[:, 1] = sign * body.hips / 2
        crouch = value["squat"] * beat + 0.25 * free * (1 + noise[:, 6 + index]) * value["squat"]
        lift = value["knee_lift"] * (0.5 + 0.5 * np.cos(swing + 0.35)) ** 2
        flexion = value["stride"] * np.sin(swing) + 0.25 * lift + 0.9 * crouch
        outward = sign * (0.04 + value["open_legs"] * beat)
        knee_bend = value["knee_bend"] + lift + 1.7 * crouch
        knee = hip + body.thigh * direction(flexion, outward)
        shin = flexion - knee_bend
        ankle = knee + body.shin * direction(shin, outward)
        toe_angle = np.clip(0.5 * shin, -0.7, 0.3) + np.pi / 2
        toe = ankle + 0.1 * body.height * direction(toe_angle - 0.2, outward)
        points[:, 11 + index], points[:, 13 + index], points[:, 15 + index] = hip, knee, ankle
        points[:, LEFT_TOE + index] = toe
        lowest = np.minimum(lowest, np.minimum(ankle[:, 2] - 0.04 * body.height, toe[:, 2]))
        # Arm: swings against the leg of its side.
        shoulder = chest + sign * body.shoulders / 2 * shoulder_axis
        raised = (value["left_arm"], value["right_arm"])[index]
        # Arms that go up together with the legs (jumping) follow the beat; a wave stays up.
        together = np.clip(value["open_legs"] / 0.42, 0, 1)
        raised = raised * (1 - together + together * beat)
        reach = free * noise[:, 8 + 2 * index]
        flexion = -value["arm_swing"] * np.sin(swing) + 0.9 * reach + lean * 0.6
        outward = sign * (0.1 + raised + 0.5 * free * np.abs(noise[:, 9 + 2 * index]))
        bend = value["elbow"] + 0.25 * value["arm_swing"] * np.sin(swing + 0.4) + 0.5 * free * reach
        bend = np.clip(bend, 0.05, 2.4)
        up_share = np.clip(raised / 1.6, 0, 1)  # a raised forearm bends to the side, not forward
        waving = value["sway"] * np.sin(3.4 * phase + index) * up_share
        elbow = shoulder + body.upper_arm * direction(flexion, outward)
        fore = direction(
            flexion + bend * (1 - up_share), outward + sign * (0.4 * bend * up_share + waving)
        )
        wrist = elbow + body.forearm * fore
        points[:, 5 + index], points[:, 7 + index], points[:, 9 + index] = shoulder, elbow, wrist
        points[:, LEFT_HAND + index] = wrist + 0.05 * body.height * fore
    points[:, PELVIS] = 0.0

    # Feet on the ground, then off it for the flights of running (two per cycle) and jumping.
    together = np.clip(value["open_legs"] / 0.42, 0, 1)
    hop = together * np.sin(phase / 2) ** 2 + (1 - together) * np.sin(phase + 0.6) ** 2
    points[:, :, 2] += (value["flight"] * hop - lowest)[:, None]

    heading = root[:, 2]
    cos, sin = np.cos(heading), np.sin(heading)

    def to_world(vectors: Floats) -> Floats:
        """(forward, left, up) -> (X, Y, Z), [N, K, 3]."""
        f, s, u = vectors[..., 0], vectors[..., 1], vectors[..., 2]
        c, n = cos[:, None], sin[:, None]
        return np.stack([f * c - s * n, u, f * n + s * c], axis=-1)

    world = to_world(points)
    world[..., 0] += root[:, 0, None]
    world[..., 2] += root[:, 1, None]
    chest_forward = np.stack([shoulder_axis[:, 1], -shoulder_axis[:, 0], 0 * twist], axis=1)
    axes = to_world(np.stack([forward, left, up, chest_forward], axis=1))
    return Posture(world, axes[:, :3], axes[:, 3])


def _triangle(phase: Floats) -> Floats:
    """The share of the cycle that has passed, 0..1."""
    return np.mod(phase / (2 * np.pi), 1.0)
