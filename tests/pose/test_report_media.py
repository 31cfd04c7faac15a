"""Images and clips as data URIs: they decode back, keep their speed, and stay small."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageSequence, features

from posewarper.report import animation, still

Image = NDArray[np.uint8]


def scene(shift: int, height: int = 48, width: int = 64) -> Image:
    """Smooth colours with a bright bar at ``shift``."""
    y, x = np.indices((height, width))
    image = np.stack([2 * x, 3 * y, x + y], -1).astype(np.uint8)
    image[:, shift % width : shift % width + 6] = 240
    return image


def bar(image: NDArray[Any]) -> int:
    return int((image.astype(float).mean((0, 2)) > 225).argmax())


def decoded(data: bytes) -> list[tuple[NDArray[Any], int]]:
    """Frames and how long each is shown, in milliseconds."""
    with PillowImage.open(io.BytesIO(data)) as file:
        return [
            (np.asarray(frame.convert("RGB")), frame.info["duration"])
            for frame in ImageSequence.Iterator(file)
        ]


def test_still_decodes_back() -> None:
    image = scene(20)
    lossy, exact = still(image), still(image, quality=101)
    assert lossy.uri.startswith("data:image/webp;base64,")
    assert (lossy.width, lossy.height) == (64, 48)
    back = np.asarray(PillowImage.open(io.BytesIO(lossy.data)).convert("RGB"))
    assert np.abs(back.astype(float) - image).mean() < 4
    back = np.asarray(PillowImage.open(io.BytesIO(exact.data)).convert("RGB"))
    np.testing.assert_array_equal(back, image)
    small = still(image, max_side=32)
    assert (small.width, small.height) == (32, 24)
    assert PillowImage.open(io.BytesIO(small.data)).size == (32, 24)


@pytest.mark.parametrize("fps", [15.0, 29.97, 7])
def test_animation_has_its_frames_and_its_speed(fps: float) -> None:
    clip = animation((scene(3 * index) for index in range(12)), fps)
    assert clip.uri.startswith("data:image/webp;base64,")
    frames = decoded(clip.data)
    assert len(frames) == clip.frames == 12
    assert [bar(frame) for frame, _ in frames] == [3 * index for index in range(12)]
    assert sum(duration for _, duration in frames) == round(1000 * 12 / fps)  # no drift
    assert clip.seconds == pytest.approx(12 / fps, abs=1e-3)
    assert frames[0][0].shape == (clip.height, clip.width, 3) == (48, 64, 3)
    assert bar(np.asarray(PillowImage.open(io.BytesIO(clip.poster.data)).convert("RGB"))) == 0


@pytest.mark.parametrize(("count", "limit", "step"), [(50, 12, 8), (12, 12, 1), (13, 12, 2),
                                                      (20, 7, 4), (5, 1, 8)])  # fmt: skip
def test_long_videos_lose_frames_but_not_time(count: int, limit: int, step: int) -> None:
    read = 0

    def frames() -> Iterator[Image]:
        nonlocal read
        for index in range(count):
            read += 1
            yield scene(index)

    clip = animation(frames(), 10, max_frames=limit)
    assert read == count
    shown = decoded(clip.data)
    assert [bar(frame) for frame, _ in shown] == list(range(0, count, step))
    assert len(shown) <= limit
    assert count / 10 <= clip.seconds < (count + step) / 10


def test_clips_stay_below_their_limit() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(4)]
    free = animation(noise, 10)
    assert (free.width, free.height) == (160, 120)
    for limit in (len(free.data) - 1, len(free.data) // 3, len(free.data) // 8):
        clip = animation(noise, 10, max_bytes=limit)
        assert len(clip.data) <= limit
        assert clip.frames == len(decoded(clip.data)) == 4
    assert clip.width < 160 and clip.width / clip.height == pytest.approx(4 / 3, abs=0.05)
    with pytest.raises(ValueError, match="max_bytes: 4 frames do not fit into 100 bytes"):
        animation(noise, 10, max_bytes=100)


def test_gif_where_there_is_no_webp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    clip = animation([scene(5 * index) for index in range(6)], 10)
    assert clip.uri.startswith("data:image/gif;base64,")
    frames = decoded(clip.data)
    assert [bar(frame) for frame, _ in frames] == [5 * index for index in range(6)]
    assert [duration for _, duration in frames] == [100] * 6


@pytest.mark.parametrize(
    ("frames", "arguments", "message"),
    [
        ([], {}, "frames: expected one or more, got none"),
        ([scene(0), scene(0, 40)], {}, r"expected all of the size of the first, \[48, 64, 3\], "
                                       r"got \[40, 64, 3\] for frame 1"),
        ([scene(0)], {"fps": 0}, "fps: expected a positive number, got 0"),
        ([scene(0)], {"fps": float("nan")}, "fps: expected a positive number, got nan"),
        ([scene(0)], {"max_frames": 0}, "max_frames: expected 1 or more, got 0"),
        ([scene(0)], {"max_side": 0}, "max_side: expected 1 or more, got 0"),
        ([scene(0)[..., 0]], {}, r"image: expected RGB \[H, W, 3\] uint8, got \[48, 64\]"),
    ],
)  # fmt: skip
def test_bad_input(frames: list[Image], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        animation(frames, **{"fps": 10, **arguments})
