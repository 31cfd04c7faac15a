"""What ``torchrun`` starts for ``test_many_videos``: two processes, of which one is killed.

At the first attempt the second process is killed in the middle of a video, after the first one has
done two. The file ``log`` gets a line for each video that is begun, and for each that was there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from posewarper.prediction import aggregate
from posewarper.streaming import command
from posewarper.streaming.writing import ResultFile

root, attempt = Path(sys.argv[1]), os.environ["TORCHELASTIC_RESTART_COUNT"]
first, dies = os.environ["RANK"] == "0", os.environ["RANK"] == "1" and attempt == "0"
notes = root / "two" / ".run" / "done"
predict_stream, add = command.predict_stream, ResultFile.add


def note(line):
    with open(root / "log", "a", encoding="utf-8") as file:
        file.write(f"{attempt} {line}\n")


def noted(source, *args, **options):
    note(f"began {source.video.name}")
    return predict_stream(source, *args, **options)


def killed(self, result):
    add(self, result)
    while len(list(notes.rglob("*.json"))) < 2:
        time.sleep(0.02)
    note("killed")
    os.kill(os.getpid(), signal.SIGKILL)


aggregate(
    root / "set" / "annotations" / "posetrack_val.json",
    root / "two.json",
    model=root / "people.pt",
    images=root / "set",
    device="cpu",
)
command.predict_stream = noted
if dies:
    ResultFile.add = killed
if first and attempt == "1":
    for path in notes.rglob("*.json"):
        note(f"kept {path.stem}")
command.predict(
    str(root / "videos" / "**" / "*.mp4"),
    root / "two",
    root / "faces.pt",
    boxes="frame",
    device="cpu",
    merge=root / "two.all.json",
)
