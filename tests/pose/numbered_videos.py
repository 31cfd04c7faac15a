"""Videos whose frames say their numbers."""

from __future__ import annotations

from fractions import Fraction

import av
import cv2
import numpy as np


def picture(number, height=48, width=64):
    """A frame that says its number in eight blocks of black or white."""
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(8):
        image[8:40, bit * 8 : bit * 8 + 8] = 255 if number >> bit & 1 else 0
    return image


def number_in(image):
    return sum(int(image[24, bit * 8 + 4].mean() > 128) << bit for bit in range(8))


def write_video(path, count, codec="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (64, 48))
    assert writer.isOpened()
    for number in range(count):
        writer.write(picture(number))
    writer.release()
    return path


def encode(
    path,
    stamps,
    codec="libx264",
    options=None,
    tick=Fraction(1, 1000),
    audio=0.0,
    file_options=None,
):
    """A video of pictures 0, 1, 2, ..., shown at these ticks."""
    with av.open(str(path), "w", options=file_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = tick
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio else None
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = int(stamp), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for start in range(0, int(8000 * audio), 1000):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
            silence.rate, silence.pts = 8000, start
            container.mux(sound.encode(silence))
        if sound is not None:
            container.mux(sound.encode(None))
    return path
