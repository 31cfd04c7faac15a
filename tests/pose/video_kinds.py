"""Videos of all kinds, made by the program ``ffmpeg``, whose frames say their numbers in blocks.

python -m tests.pose.video_kinds FOLDER       # writes all of them, to look at
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

FFMPEG = shutil.which("ffmpeg")
COUNT, RATE, WIDTH, HEIGHT = 60, 25, 160, 96
CORNERS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (235, 235, 235))

_X264 = "-c:v libx264 -preset veryfast -g 20 -bf 2 -pix_fmt yuv420p"
_X265 = "-c:v libx265 -preset ultrafast"
_FIELDS = "-flags +ilme+ildct"

#: Ending and options by name: what goes into the file for what is drawn.
KINDS = {
    "h264": ("mp4", _X264),
    "h264-full-range": ("mp4", f"{_X264} -vf scale=out_range=full -color_range pc"),
    "h264-j420": ("mp4", "-c:v libx264 -g 20 -pix_fmt yuvj420p"),
    "h264-709": ("mp4", f"{_X264} -vf scale=out_color_matrix=bt709 -colorspace bt709"),
    "h264-2020": ("mp4", f"{_X264} -vf scale=out_color_matrix=bt2020 -colorspace bt2020nc"),
    "h264-444": ("mp4", f"{_X264[:-4]}444p"),
    "h264-10": ("mkv", f"{_X264}10le"),
    "h264-gray": ("mkv", "-c:v libx264 -g 20 -pix_fmt gray"),
    "h264-rgb": ("mkv", "-c:v libx264rgb -g 20 -pix_fmt rgb24"),
    "h264-fields": ("mp4", f"{_X264} {_FIELDS} -x264-params tff=1"),
    "h264-open-gop": ("mp4", f"{_X264} -x264-params open-gop=1:b-pyramid=1"),
    "h264-intra-refresh": ("mp4", f"{_X264} -x264-params intra-refresh=1"),
    "h264-transport": ("ts", _X264),
    "h264-raw": ("h264", _X264),
    "h264-avi": ("avi", _X264),
    "h264-flv": ("flv", _X264),
    "h264-fragments": ("mp4", f"{_X264} -movflags frag_keyframe+empty_moov"),
    "hevc": ("mp4", f"{_X265} -pix_fmt yuv420p -x265-params keyint=20:log-level=0"),
    "hevc-12": ("mkv", f"{_X265} -pix_fmt yuv422p12le -x265-params log-level=0"),
    "mpeg1": ("mpg", "-c:v mpeg1video -g 12 -bf 2 -q:v 2"),
    "mpeg2-fields": ("mpg", f"-c:v mpeg2video -g 12 -bf 2 -q:v 2 {_FIELDS} -top 1 -f vob"),
    "mpeg2-transport": ("ts", "-c:v mpeg2video -g 12 -bf 2 -q:v 2"),
    "mpeg2-422": ("mov", "-c:v mpeg2video -g 1 -q:v 2 -pix_fmt yuv422p"),
    "mpeg4": ("mp4", "-c:v mpeg4 -g 12 -q:v 2"),
    "mpeg4-b": ("avi", "-c:v mpeg4 -g 12 -bf 2 -q:v 2"),
    "mpeg4-packed": ("avi", "-c:v libxvid -g 12 -bf 2 -q:v 2"),
    "msmpeg4": ("avi", "-c:v msmpeg4 -g 12 -q:v 2"),
    "wmv": ("wmv", "-c:v wmv2 -g 12 -q:v 2"),
    "mjpeg": ("avi", "-c:v mjpeg -q:v 2 -pix_fmt yuvj422p"),
    "mjpeg-limited": ("mov", "-c:v mjpeg -q:v 2 -strict -1 -pix_fmt yuv420p -color_range tv"),
    "ffv1-gray16": ("mkv", "-c:v ffv1 -pix_fmt gray16le"),
    "ffv1-gray10": ("mkv", "-c:v ffv1 -pix_fmt gray10le"),
    "ffv1-rgb48": ("mkv", "-c:v ffv1 -pix_fmt gbrp16le -strict -2"),
    "ffv1-alpha": ("mkv", "-c:v ffv1 -pix_fmt yuva420p"),
    "huffyuv": ("avi", "-c:v huffyuv -pix_fmt yuv422p"),
    "raw-rgb": ("avi", "-c:v rawvideo -pix_fmt bgr24"),
    "raw-gray": ("avi", "-c:v rawvideo -pix_fmt gray"),
    "png": ("mov", "-c:v png"),
    "prores": ("mov", "-c:v prores_ks -profile:v 2"),
    "prores-4444": ("mov", "-c:v prores_ks -profile:v 4 -pix_fmt yuva444p10le"),
    "dnxhr": ("mov", "-c:v dnxhd -profile:v dnxhr_sq -s 256x128 -pix_fmt yuv422p"),
    "vp8": ("webm", "-c:v libvpx -g 20 -auto-alt-ref 1 -lag-in-frames 16 -b:v 2M -cpu-used 4"),
    "vp9": ("webm", "-c:v libvpx-vp9 -g 20 -auto-alt-ref 1 -lag-in-frames 16 -b:v 2M -cpu-used 5"),
    "vp9-10": ("mkv", "-c:v libvpx-vp9 -g 20 -pix_fmt yuv420p10le -b:v 2M -cpu-used 8"),
    "av1": ("mp4", "-c:v libsvtav1 -g 20 -preset 12"),
    "gif": ("gif", ""),
    "theora": ("ogv", "-c:v libtheora -g 16 -q:v 8"),
    "uneven": ("mp4", f"{_X264} -vf setpts='(N*N/9+N)/25/TB' -fps_mode vfr"),
    "uneven-mkv": ("mkv", f"{_X264} -vf setpts='(N*N/9+N)/25/TB' -fps_mode vfr"),
    "fast": ("mp4", f"-r 1200 {_X264}"),
    "sound": ("mp4", f"-f lavfi -i sine=r=8000:d=4 -c:a aac {_X264}"),
}  # fmt: skip

#: Copies of other kinds, with options before and after the input.
COPIES = {
    "turned-90": ("mp4", "h264", "", "-metadata:s:v:0 rotate=90"),
    "turned-180": ("mp4", "h264", "", "-metadata:s:v:0 rotate=180"),
    "turned-270": ("mov", "h264", "", "-metadata:s:v:0 rotate=270"),
    "edit-list": ("mp4", "h264", "-ss 1.1", ""),
    "edit-list-mkv": ("mkv", "h264", "-ss 1.1", ""),
    "cut-transport": ("ts", "mpeg2-transport", "-ss 1.0", ""),
}


def drawn(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Frame ``number``: eight blocks of black or white, coloured corners, a ramp."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(60, 120, width)[None, :, None]
    h, w = height // 4, width // 5
    for corner, rows, columns in zip(
        CORNERS,
        (slice(h), slice(h), slice(-h, None), slice(-h, None)),
        (slice(w), slice(-w, None), slice(w), slice(-w, None)),
        strict=True,
    ):
        image[rows, columns] = corner
    for bit in range(8):
        columns = slice(width * (bit + 1) // 10, width * (bit + 2) // 10)
        image[height * 2 // 5 : height * 3 // 5, columns] = 255 if number >> bit & 1 else 0
    return image


def number_drawn(image: np.ndarray) -> int:
    """Which number a frame says."""
    height, width = image.shape[:2]
    row = image[height * 9 // 20 : height * 11 // 20].mean((0, 2))
    return sum(int(row[int(width * (bit + 1.5) / 10)] > 128) << bit for bit in range(8))


def make(name: str, folder: Path, count: int = COUNT) -> Path:
    """Write a kind of video; its path.

    Raises:
        RuntimeError: this ffmpeg cannot.
    """
    if name in COPIES:
        suffix, source, before, after = COPIES[name]
        origin = folder / f"{source}.{(KINDS | COPIES)[source][0]}"
        origin = origin if origin.exists() else make(source, folder, count)
        path = folder / f"{name}.{suffix}"
        words = [*before.split(), "-i", str(origin), *after.split(), "-c", "copy", str(path)]
        return _run(words, None, path)
    suffix, options = KINDS[name]
    path = folder / f"{name}.{suffix}"
    frames = b"".join(drawn(number).tobytes() for number in range(count))
    rate = "1200" if name == "fast" else str(RATE)
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", rate]
    words = [word.strip("'") for word in options.split()]
    return _run([*given, "-i", "-", *words, str(path)], frames, path)


def _run(words: list[str], data: bytes | None, path: Path) -> Path:
    command = [str(FFMPEG), "-v", "error", "-y", *words]
    done = subprocess.run(command, input=data, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{path.name}: {done.stderr.decode(errors='replace')[-300:]}")
    return path


def decoded(path: Path, size_wh: tuple[int, int]) -> np.ndarray:
    """Its frames [N, H, W, 3] as the program ``ffmpeg`` decodes them to RGB."""

    command = [str(FFMPEG), "-v", "error", "-i", str(path), "-map", "0:v:0"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-"]
    data = subprocess.run(command, capture_output=True).stdout
    return np.frombuffer(data, np.uint8).reshape(-1, size_wh[1], size_wh[0], 3)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for kind in (*KINDS, *COPIES):
        try:
            print(make(kind, target))
        except RuntimeError as error:
            print(error)
