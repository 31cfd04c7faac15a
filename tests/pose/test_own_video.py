"""The tutorial docs/own-video.md: its commands, one after the other, leave what it says."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from posewarper import cli
from posewarper.data.annotations import load_coco
from posewarper.data.formats import load_labels
from posewarper.data.video import VideoFile
from posewarper.models import load_model
from posewarper.skeleton import Skeleton, find_skeleton

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "own-video.md").read_text(encoding="utf-8")
FRAMES, NEW_FRAMES = 100, 24
#: Options that make a command of the tutorial short.
SHORTER = {
    "synthesize practice": f"--frames {FRAMES} --width 128 --height 96",
    "synthesize new": f"--frames {NEW_FRAMES} --width 128 --height 96",
    "fit": "--effort 0.001 --progress false",
    "predict": "--progress false --lost_below 0",  # a network that has learned next to nothing
    "view": "--progress false",
}


def blocks() -> list[tuple[str, str]]:
    """Marker, or nothing, and text of the blocks of commands."""
    found = re.findall(r"(?:<!-- (\w+) -->\n)?^```bash\n(.*?)^```", TEXT, re.DOTALL | re.M)
    assert len(found) == TEXT.count("```bash")
    return found


def commands() -> list[list[str]]:
    """Those to run; what a marker stands before needs a network, or other files."""
    lines = "\n".join(text for marker, text in blocks() if not marker).replace("\\\n", " ")
    return [words for line in lines.splitlines() if (words := shlex.split(line, comments=True))]


def run(words: list[str]) -> None:
    if words[0] == "cp":
        shutil.copy(words[1], words[2])
        return
    assert words[0] == "posewarper"
    shorter = next((o for n, o in SHORTER.items() if shlex.join(words[1:]).startswith(n)), "")
    assert cli.main([*words[1:], *shorter.split()]) == 0


def labelled(path: str) -> list[int]:
    dataset = load_coco(path)
    return dataset.frames.number[dataset.frames.labelled].tolist()


def practice_is_drawn() -> None:
    assert VideoFile(Path("practice/images/train/000001_synthetic.mp4")).frame_count() == FRAMES
    assert len(labelled("practice/annotations/posetrack_train.json")) == FRAMES


def every_fifth_frame_is_labelled() -> None:
    assert labelled("labels.json") == list(range(0, FRAMES, 5))


def the_clip_is_here() -> None:
    assert VideoFile(Path("clip.mp4")).frame_count() == FRAMES


def fit_leaves_what_its_table_says() -> None:
    table = re.findall(r"^\| `([\w./]+)` \|", TEXT.partition("## Fit")[2], re.M)[:5]
    assert table == ["report.html", "labels.json", "overlays/clip.mp4", "model.pt", "results.json"]
    assert all((Path("fit") / name).stat().st_size for name in table)
    assert VideoFile(Path("fit/overlays/clip.mp4")).frame_count() == FRAMES
    load_model("fit/model.pt")
    dense, labels = load_coco("fit/labels.json"), load_coco("labels.json")
    assert len(dense.frames) == FRAMES
    assert (np.bincount(dense.people.frame) == 2).all() and len(dense.people) == 2 * FRAMES
    human = ~dense.people.predicted
    assert (dense.people.keypoints[human] == labels.people.keypoints).all()
    scores = dense.people.joint_scores[~human]
    scores = scores[np.isfinite(scores)]
    assert scores.min() > 0 and scores.max() <= 1
    training = load_coco("fit/inputs/training.json").frames.labelled.sum()
    assert len(labels.frames.number[labels.frames.labelled]) - training == 2  # a tenth of 20, 25


def the_report_has_its_parts() -> None:
    results = json.loads(Path("fit/results.json").read_text())
    assert {"warp", "copy", "linear", "flow", "single"} <= set(results["hidden"])
    assert set(results["hidden"]["warp"]["pck"]) == {"0.02", "0.05", "0.1"}
    assert results["jitter"] > 0 and results["suggestions"]
    page = Path("fit/report.html").read_text(encoding="utf-8")
    for part in ("hidden labels", "confidence be trusted", "Jitter", "label next"):
        assert part in page
    fit_leaves_what_its_table_says()


def the_page_to_look_at_is_there() -> None:
    page = Path("fit/labels.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp") >= 1 or "webp" in page
    assert "http-equiv" in page and "right_ankle" in page


def ten_frames_are_suggested() -> None:
    rows = Path("next.csv").read_text().splitlines()
    assert len(rows) == 1 + 10
    known = set(labelled("labels.json"))
    assert not known & {int(row.split(",")[1]) for row in rows[1:]}


def there_are_more_labels() -> None:
    assert labelled("labels.json") == list(range(0, FRAMES, 4))


def it_was_fit_again_and_exported() -> None:
    the_report_has_its_parts()
    dense = load_coco("fit/labels.json")
    exported = load_labels("poses.csv", video="clip.mp4")
    np.testing.assert_allclose(exported.people.keypoints, dense.people.keypoints, atol=1e-6)


def sleap_has_the_scores() -> None:
    found, dense = load_labels("poses.slp"), load_coco("fit/labels.json")
    assert found.people.predicted.sum() == dense.people.predicted.sum() > 0


def another_video_is_drawn() -> None:
    assert VideoFile(Path("new/images/train/000001_synthetic.mp4")).frame_count() == NEW_FRAMES


def its_first_frame_is_labelled() -> None:
    assert labelled("start.json") == [0] and len(load_coco("start.json").people) == 2


def the_other_clip_is_here() -> None:
    assert VideoFile(Path("other.mp4")).frame_count() == NEW_FRAMES


def people_are_followed() -> None:
    """From where they are labelled; how far depends on what the network has learned."""
    found, start = load_coco("other.json"), load_coco("start.json")
    assert found.people.predicted.all() and len(found.frames) == NEW_FRAMES
    first = found.people.track_id[found.frames.number[found.people.frame] == 0]
    assert sorted(first.tolist()) == sorted(start.people.track_id.tolist())
    assert found.skeleton.joints == start.skeleton.joints
    assert VideoFile(Path("other-poses.mp4")).frame_count() == NEW_FRAMES


def the_other_page_is_there() -> None:
    assert "right_ankle" in Path("other.html").read_text(encoding="utf-8")


#: What is checked after each command of the tutorial.
CHECKS: list[tuple[str, Callable[[], None]]] = [
    ("posewarper synthesize", practice_is_drawn),
    ("posewarper sparsify", every_fifth_frame_is_labelled),
    ("cp", the_clip_is_here),
    ("posewarper fit", the_report_has_its_parts),
    ("posewarper view", the_page_to_look_at_is_there),
    ("posewarper suggest", ten_frames_are_suggested),
    ("posewarper sparsify", there_are_more_labels),
    ("posewarper fit", it_was_fit_again_and_exported),
    ("posewarper convert", sleap_has_the_scores),
    ("posewarper synthesize", another_video_is_drawn),
    ("posewarper sparsify", its_first_frame_is_labelled),
    ("cp", the_other_clip_is_here),
    ("posewarper predict", people_are_followed),
    ("posewarper view", the_other_page_is_there),
]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, (name, check) in zip(commands(), CHECKS, strict=True):
        assert shlex.join(words).startswith(name), f"{words}: {check.__name__} is for {name!r}"
        run(words)
        check()


def test_the_example_table_is_read(tmp_path: Path) -> None:
    """With the skeleton of the example, but for the joint that the table does not have."""
    table = re.search(r"^```text\n(.*?)^```", TEXT, re.DOTALL | re.M)
    skeleton = re.search(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.M)
    assert table is not None and skeleton is not None
    (tmp_path / "labels.csv").write_text(table[1])
    (tmp_path / "mouse.yaml").write_text(skeleton[1])
    found = load_labels(tmp_path / "labels.csv")
    assert found.frames.number.tolist() == [0, 20]
    assert found.people.track_id.tolist() == [0, 1, 0]
    assert found.people.keypoints[1, 1, 2] == 0 and found.people.keypoints[0, 0, 0] == 310.5
    mouse = find_skeleton(str(tmp_path / "mouse.yaml"))
    assert (
        isinstance(mouse, Skeleton) and mouse.flip_pairs == ((1, 2),) == found.skeleton.flip_pairs
    )
    assert mouse.limbs == ((0, 3),)
    with pytest.raises(ValueError, match="tail"):
        load_labels(tmp_path / "labels.csv", skeleton=mouse)


def test_messages_of_the_table_exist() -> None:
    table = TEXT.partition("## What the messages mean")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    quoted = [text for row in rows for text in re.findall(r"`(.*?)`", row)]
    assert len(quoted) >= 12
    texts = {
        node.value
        for path in (ROOT / "posewarper").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert [text for text in quoted if not any(text in other for other in texts)] == []


def test_the_extra_for_tracking() -> None:
    """Both lines stand together, for those who run them."""
    block = next(text for marker, text in blocks() if marker == "track")
    assert block.splitlines() == [
        'pip install -e ".[track]"',
        "pip install --force-reinstall --no-deps opencv-python-headless",
    ]
    assert len(TEXT.splitlines()) < 200
