"""The viewer: one whole page with the frames and the people in them, and what its script does."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import jsonargparse
import numpy as np
import pytest
from PIL import Image as PillowImage

from posewarper.data.annotations import save_coco
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.report.viewer import view
from posewarper.report.viewer_data import add_matches
from posewarper.skeleton import Skeleton
from tests.pose.headless_browser import CHROMIUM, Browser, BrowserError

SKELETON = Skeleton("ant", ("head", "thorax", "tail"), (), ((0, 1), (1, 2)))
EVIL = "</script><script>alert(1)</script>\"'&<img src=x>"
COUNT = 8


def frame(number: int, size_wh: tuple[int, int] = (80, 48)) -> np.ndarray:
    """A grey level that tells the number."""
    return np.full((*size_wh[::-1], 3), 20 + 25 * number, np.uint8)


def write_frames(folder: Path, numbers: Any, size_wh: tuple[int, int] = (80, 48)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        cv2.imwrite(str(folder / f"{number:06d}.png"), frame(number, size_wh))


def dataset(
    name: str = "ants", *, count: int = COUNT, skeleton: Skeleton = SKELETON, shift: float = 0.0
) -> PoseDataset:
    """Two tracks, the second one first in the file; frames 0 and 4 are labelled by a human, the
    others predicted, less surely at 5; joint 2 of track 1 is never labelled.
    """
    videos = (Video(name, count, 0, "%06d.png"),)
    rows, points, scores, tracks = [], [], [], []
    for number in range(count):
        for track in (1, 0):
            joints = np.array([[10, 8, 2], [20, 12, 2], [30, 16, 2]], np.float64)
            joints[:, :2] += [2 * number + shift, 20 * track]
            if track:
                joints[2] = 0
            sure = 0.3 if number == 5 else 0.9 - 0.01 * number
            rows.append(number)
            points.append(joints[: len(skeleton)])
            own = np.array([sure, 0.5, np.nan if track else 0.2])
            scores.append(np.full(3, np.nan) if number in (0, 4) else own)
            tracks.append(track)
    boxes = [[5.0, 5 + 20 * t, 40, 20] for t in tracks]
    people = People.make(rows, points, boxes, track_id=tracks, joint_scores=scores)
    frames = Frames.make(videos, np.zeros(count), np.arange(count), size_wh=(80, 48))
    return PoseDataset(skeleton, videos, frames, people)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A label file beside the folder of its frames."""
    write_frames(tmp_path / "ants", range(COUNT))
    save_coco(dataset(), tmp_path / "labels.json")
    return tmp_path / "labels.json"


class Page(HTMLParser):
    """The elements of a page and the texts of those that have an id or are scripts."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.by_id: dict[str, str] = {}
        self.inside: list[tuple[str, str | None]] = []
        self.texts: dict[str, str] = {"script": "", "style": "", "title": "", "h1": ""}
        self.options: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        self.data = json.loads(self.by_id["data"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag: str) -> None:
        self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            return
        tag, name = self.inside[-1]
        if name is not None:
            self.by_id[name] = self.by_id.get(name, "") + data
        elif tag in self.texts:
            self.texts[tag] += data
        if tag == "option":
            self.options.append(data)

    def frames(self) -> dict[str, np.ndarray]:
        ids = [i for i in self.by_id if re.fullmatch(r"f\d+-\d+", i)]
        files = (io.BytesIO(base64.b64decode(self.by_id[i], validate=True)) for i in ids)
        return {i: np.asarray(PillowImage.open(f)) for i, f in zip(ids, files, strict=True)}


def made(labels: Path, **options: Any) -> Page:
    return Page(view(labels, progress=False, **options))


def test_every_frame_is_on_the_page_with_its_people(labels: Path) -> None:
    page = made(labels)
    frames = page.frames()
    assert list(frames) == [f"f0-{n}" for n in range(COUNT)]
    for number, image in enumerate(frames.values()):
        assert image.shape == (48, 80, 3)
        assert abs(float(image.mean()) - (20 + 25 * number)) < 3
    (film,) = page.data["videos"]
    assert page.data["joints"] == list(SKELETON.joints)
    assert page.data["limbs"] == [[0, 1], [1, 2]]
    assert film["name"] == "ants"
    assert film["numbers"] == list(range(COUNT))
    assert film["size"] == [80, 48]
    assert film["sizes"] == film["missing"] == {}
    assert film["human"] == [0, 4]
    assert [[p["t"] for p in people] for people in film["people"]] == [[0, 1]] * COUNT
    first, second = film["people"][3]
    assert first["x"] == [16, 26, 36]
    assert first["s"] == [0.87, 0.5, 0.2]
    assert second["x"] == [16, 26, None]
    assert second["y"] == [28, 32, None]
    assert second["s"] == [0.87, 0.5, None]
    assert second["b"] == [5, 25, 40, 20]
    assert "s" not in film["people"][4][0]  # a human's
    assert "others" not in film


def test_default_name_and_what_is_printed(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = view(labels)
    assert out == labels.with_suffix(".html")
    printed = capsys.readouterr()
    assert re.fullmatch(r"1 videos, 8 frames, 16 people, 0\.\d MB -> .*labels\.html\n", printed.out)
    assert "8/8" in printed.err  # the progress bar


def test_the_page_trusts_no_text_and_loads_nothing(tmp_path: Path) -> None:
    name = EVIL.replace("/", "")
    write_frames(tmp_path / name, range(COUNT))
    joints = (EVIL, "&amp;", "<!--")
    save_coco(dataset(name, skeleton=replace(SKELETON, joints=joints)), tmp_path / "a<b>&.json")
    page = made(tmp_path / "a<b>&.json")
    assert page.data["joints"] == list(joints)
    assert page.data["videos"][0]["name"] == name
    assert page.texts["h1"] == name
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert [a.get("type") for a in scripts] == ["text/plain"] * COUNT + ["application/json", None]
    assert not any("alert" in text for text in re.findall(r"<script>(.*?)</script>", page.html))
    links = [a for _, a in page.elements if {"src", "href", "srcset", "action"} & set(a)]
    assert links == []
    assert not [a for _, a in page.elements for key in a if key.startswith("on") or key == "style"]
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a)
    for kind in ("script", "style"):
        text = re.search(rf"<{kind}>(.*?)</{kind}>", page.html, re.S)
        assert text is not None
        digest = base64.b64encode(hashlib.sha256(text[1].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'; img-src data:; ")


def test_controls_have_names(labels: Path) -> None:
    page = made(labels)
    buttons = [a for tag, a in page.elements if tag == "button"]
    assert len(buttons) == 7
    assert all(a["type"] == "button" and a["title"] for a in buttons)
    timeline = next(a for _, a in page.elements if a.get("id") == "timeline")
    assert (timeline["role"], timeline["tabindex"], timeline["aria-label"]) == (
        "slider", "0", "Frame",
    )  # fmt: skip


def test_missing_and_damaged_frames_are_told_and_shift_nothing(
    labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = labels.parent / "ants"
    (folder / "000002.png").unlink()
    (folder / "000005.png").write_bytes((folder / "000005.png").read_bytes()[:60])
    page = made(labels)
    frames = page.frames()
    assert list(frames) == [f"f0-{n}" for n in (0, 1, 3, 4, 6, 7)]
    for name, image in frames.items():
        assert abs(float(image.mean()) - (20 + 25 * int(name[3:]))) < 3
    film = page.data["videos"][0]
    assert set(film["missing"]) == {"2", "5"}
    assert film["missing"]["2"].startswith("ants/000002.png")  # not where it is on this machine
    assert len(film["people"]) == COUNT
    printed = capsys.readouterr().err
    assert "2 frames cannot be read" in printed
    assert "000005.png" in printed


def test_frames_without_any_image_are_an_error_and_leave_no_file(labels: Path) -> None:
    for file in (labels.parent / "ants").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"none of 8 frames can be read.*000000\.png"):
        made(labels)
    shutil.rmtree(labels.parent / "ants")
    with pytest.raises(FileNotFoundError, match=r"no frames of video ants below .*give images"):
        made(labels)
    assert sorted(os.listdir(labels.parent)) == ["labels.json"]


def test_which_frames(labels: Path) -> None:
    def numbers(**options: Any) -> list[int]:
        found: list[int] = made(labels, **options).data["videos"][0]["numbers"]
        return found

    assert numbers(first=2, last=5) == [2, 3, 4, 5]
    assert numbers(every=3) == [0, 3, 6]
    assert numbers(frames="human") == [0, 4]
    assert numbers(frames="annotated", first=6) == [6, 7]
    page = made(labels, frames="human", first=1)
    assert page.data["videos"][0]["human"] == [0]  # positions on the page, not numbers
    assert list(page.frames()) == ["f0-0"]
    with pytest.raises(ValueError, match=r"no frame to show .*first\.\.last 20\.\..*ants 0\.\.7"):
        numbers(first=20)


def test_images_taken_out_of_a_video_leave_no_holes(tmp_path: Path) -> None:
    write_frames(tmp_path / "ants", [1, 6])
    few = dataset()
    few = few.select(frames=np.array([1, 6]))
    save_coco(few, tmp_path / "labels.json")
    assert made(tmp_path / "labels.json").data["videos"][0]["numbers"] == [1, 6]
    write_frames(tmp_path / "ants", range(1, 7))  # now it is a video, whose last frame is missing
    film = made(tmp_path / "labels.json").data["videos"][0]
    assert film["numbers"] == [1, 2, 3, 4, 5, 6, 7]
    assert list(film["missing"]) == ["6"]
    assert film["people"][1] == []
    assert len(film["people"][5]) == 2


def test_images_shrink_and_keep_their_coordinates(labels: Path) -> None:
    page = made(labels, max_side=20, image_format="jpeg", quality=50)
    assert page.frames()["f0-0"].shape == (12, 20, 3)
    assert page.by_id["f0-0"].startswith(base64.b64encode(b"\xff\xd8\xff").decode())
    assert page.data["format"] == "jpeg"
    assert page.data["videos"][0]["size"] == [80, 48]
    assert page.data["videos"][0]["people"][0][0]["x"] == [10, 20, 30]


def test_frames_of_another_size_say_so(labels: Path) -> None:
    write_frames(labels.parent / "ants", [3], (60, 60))
    film = made(labels).data["videos"][0]
    assert (film["size"], film["sizes"]) == ([80, 48], {"3": [60, 60]})


def test_a_page_that_is_too_large_stops_with_advice(labels: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    for file in (labels.parent / "ants").iterdir():
        cv2.imwrite(str(file), noise)
    old = labels.with_suffix(".html")
    old.write_text("old")
    with pytest.raises(ValueError, match=r"^max_mb: 8 frames of up to 400 pixels take about") as e:
        made(labels, max_mb=0.6)
    assert old.read_text() == "old"
    assert sorted(os.listdir(labels.parent)) == ["ants", "labels.html", "labels.json"]
    side = re.search(r"max_side=(\d+)", str(e.value))
    step = re.search(r"one in (\d+)", str(e.value))
    assert side is not None and step is not None
    assert made(labels, max_mb=0.6, max_side=int(side[1])).frames()["f0-0"].shape[0] < 400
    assert len(made(labels, max_mb=0.6, every=int(step[1])).frames()) < COUNT
    assert old.stat().st_size < 600_000
    with pytest.raises(ValueError, match=r"max_mb: the page takes about .* expected at most 0.01"):
        made(labels, max_mb=0.01)


def test_a_long_video_is_foreseen_to_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posewarper.data.video import FrameSource

    asked = []
    noise = np.random.default_rng(0).integers(0, 255, (48, 80, 3), np.uint8)
    monkeypatch.setattr(FrameSource, "read", lambda *a, **k: asked.append(a) or noise)
    (tmp_path / "ants").mkdir()
    save_coco(dataset(count=200).select(people=np.arange(0)), tmp_path / "labels.json")
    with pytest.raises(ValueError, match="max_mb: 200 frames"):
        made(tmp_path / "labels.json", max_mb=0.5)
    assert len(asked) == 30


def test_video_file_with_its_speed(labels: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "movie.avi"
    file.parent.mkdir()
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (80, 48))
    for number in range(COUNT + 2):
        writer.write(frame(number))
    writer.release()
    film = made(labels, video=file).data["videos"][0]
    assert film["fps"] == 12.5
    assert film["numbers"] == list(range(COUNT + 2))  # as many as the file has
    assert film["name"] == "movie"
    assert made(labels, video=file, fps=50).data["videos"][0]["fps"] == 50
    assert made(labels).data["videos"][0]["fps"] == 25
    data = dataset()
    longer = Video("movie", COUNT + 4, 0, "", str(file))  # than the file
    save_coco(replace(data, videos=(longer,)), tmp_path / "longer.json")
    film = made(tmp_path / "longer.json").data["videos"][0]
    assert list(film["missing"]) == ["10", "11"]
    assert film["missing"]["10"].startswith("movie.avi: frame 10 cannot be read")
    with pytest.raises(ValueError, match="images, video: expected one of them"):
        made(labels, video=file, images=tmp_path)


def two_videos(tmp_path: Path) -> Path:
    parts = []
    for index, name in enumerate(("val/left", "val/right")):
        write_frames(tmp_path / name, range(COUNT))
        part = dataset(name)
        shift = 100 * index
        frames = replace(part.frames, image_id=part.frames.image_id + shift)
        people = replace(part.people, annotation_id=part.people.annotation_id + shift)
        parts.append(replace(part, frames=frames, people=people))
    save_coco(PoseDataset.concatenate(parts, "both"), tmp_path / "labels" / "both.json")
    return tmp_path / "labels" / "both.json"


def test_several_videos(tmp_path: Path) -> None:
    labels = two_videos(tmp_path)
    page = made(labels, last=1)  # the folder above that of the labels has the frames
    assert [film["name"] for film in page.data["videos"]] == ["left", "right"]
    assert page.options[:2] == ["left", "right"]
    assert list(page.frames()) == ["f0-0", "f0-1", "f1-0", "f1-1"]
    for name in ("val/right", "right", "*/r*"):
        films = made(labels, name=name).data["videos"]
        assert [film["name"] for film in films] == ["right"]
    assert len(made(labels, name="val/*").data["videos"]) == 2
    with pytest.raises(ValueError, match=r"name: .* has no video 'up'; it has val/left, val/right"):
        made(labels, name="up")
    moved = tmp_path / "moved"
    (tmp_path / "val" / "right").rename(moved)
    page = made(labels, name="right", video=moved)
    assert page.data["videos"][0]["name"] == "moved"
    with pytest.raises(ValueError, match="one path is given, but the labels are of 2 videos"):
        made(labels, video=moved)


def test_comparison_finds_who_is_who(labels: Path) -> None:
    other = dataset("other name", shift=3.0)
    tracks = other.people.track_id + 7
    people = replace(other.people, track_id=tracks)
    keep = (other.frames.number[other.people.frame] != 6) | (tracks == 7)
    save_coco(replace(other, people=people).select(people=keep), labels.parent / "truth.json")
    page = made(labels, compare=labels.parent / "truth.json")
    film = page.data["videos"][0]
    assert len(film["others"]) == COUNT
    for number, (mine, others) in enumerate(zip(film["people"], film["others"], strict=True)):
        for person in mine:
            if number == 6 and person["t"] == 1:
                assert "m" not in person
                continue
            match = others[person["m"]]
            assert match["t"] == person["t"] + 7
            assert match["x"][0] == person["x"][0] + 3
    assert "truth.json" in page.by_id["compare-choice"] or "truth.json" in page.html


def test_comparison_by_joint_names(labels: Path, tmp_path: Path) -> None:
    other = dataset("ants", skeleton=Skeleton("other", ("tail", "wing", "head")))
    save_coco(other, tmp_path / "other.json")
    film = made(labels, compare=tmp_path / "other.json").data["videos"][0]
    first = film["others"][0][0]
    assert first["x"] == [30, None, 10]  # the other file's tail and head lie in its slots 0 and 2
    save_coco(dataset(skeleton=Skeleton("x", ("a", "b", "c"))), tmp_path / "foreign.json")
    with pytest.raises(ValueError, match=r"compare: .*foreign\.json has none of the joints"):
        made(labels, compare=tmp_path / "foreign.json")
    two_videos(tmp_path)
    with pytest.raises(ValueError, match=r"compare: .*both\.json has none of the videos"):
        made(labels, compare=tmp_path / "labels" / "both.json")


def test_matches_are_the_least_sum_and_never_far_apart() -> None:
    def person(x: float) -> dict[str, Any]:
        return {"t": -1, "x": [x, x + 10, None], "y": [0.0, 10.0, None]}

    people = [[person(0), person(6)], [person(0)], [person(0)], []]
    others = [[person(5), person(11)], [person(500)], [], [person(0)]]
    add_matches(people, others)
    assert [p.get("m") for p in people[0]] == [0, 1]  # not 6 to 5, which leaves 0 to 11
    assert [p.get("m") for p in people[1] + people[2]] == [None, None]
    none: dict[str, Any] = {"t": -1, "x": [None] * 3, "y": [None] * 3}
    add_matches([[none, person(0)]], [[person(1), none]])
    assert "m" not in none


def test_labels_by_humans_alone_and_people_without_tracks(labels: Path) -> None:
    data = dataset()
    nobody = np.full(len(data.people), -1)
    scores = np.full_like(data.people.joint_scores, np.nan)
    people = replace(data.people, track_id=nobody, joint_scores=scores)
    labelled = data.frames.number < 6
    empty = people.frame != 2  # looked at, and nobody found
    save_coco(
        replace(data, people=people, frames=replace(data.frames, labelled=labelled)).select(
            people=empty & labelled[people.frame]
        ),
        labels,
    )
    film = made(labels).data["videos"][0]
    assert film["human"] == [0, 1, 2, 3, 4, 5]
    assert film["people"][2] == film["people"][7] == []
    assert [p["t"] for p in film["people"][3]] == [-1, -1]
    assert not any("s" in person for people in film["people"] for person in people)


def test_names_of_tracks_of_other_tools(tmp_path: Path) -> None:
    write_frames(tmp_path / "ants", range(3))
    lines = ["scorer,me,me,me,me", "individuals,queen,queen,worker,worker"]
    lines += ["bodyparts,head,head,head,head", "coords,x,y,x,y"]
    lines += [f"ants/{n:06d}.png,{n}.5,2,30,4" for n in range(3)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    page = made(tmp_path / "labels.csv")
    assert page.data["tracks"] == {"0": "queen", "1": "worker"}
    assert page.data["videos"][0]["people"][2][0]["x"] == [2.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every: expected 1 or more, got 0"),
        ({"max_side": 4}, "max_side: expected 16 or more"),
        ({"quality": 101}, "quality: expected 1 to 100"),
        ({"threshold": 2.0}, "threshold: expected 0 to 1"),
        ({"max_mb": 0.0}, "max_mb: expected a positive number"),
        ({"fps": float("nan")}, "fps: expected a positive number"),
        ({"image_format": "bmp"}, "image_format: expected one of"),
        ({"frames": "some"}, "frames: expected one of"),
        ({"out": Path("x.json")}, "out: expected a name that ends in .html, got 'x.json'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(labels: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        view(labels, progress=False, **options)


def test_bad_files(labels: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.json: there is no such file"):
        view(labels.parent / "nothing.json")
    with pytest.raises(FileNotFoundError, match="images: expected a folder"):
        view(labels, images=labels.parent / "nowhere")


def test_command_line(labels: Path, tmp_path: Path) -> None:
    arguments = [str(labels), "--out", str(tmp_path / "deep" / "page.html"), "--every=2"]
    arguments += ["--progress=false", "--frames=annotated", "--threshold=0.5"]
    out = jsonargparse.auto_cli(view, args=arguments, as_positional=True)
    page = Page(out)
    assert page.data["threshold"] == 0.5
    assert len(page.frames()) == 4


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    try:
        started = Browser(tmp_path_factory.mktemp("profile")).__enter__()
    except (BrowserError, OSError) as error:
        pytest.skip(f"Chromium does not start here: {error}")
    with contextlib.closing(started):
        yield started


def state(browser: Browser) -> dict[str, Any]:
    """What is to be seen, as soon as the frame that was asked for is there."""
    browser.until("at === wanted && $('picture').getAttribute('aria-label') === "
                  "`Frame ${film.numbers[at]} of ${film.name}`")  # fmt: skip
    found: dict[str, Any] = browser.run("""({
        frame: film.numbers[at],
        place: $("place").textContent,
        circles: document.querySelectorAll("#marks circle.predicted").length,
        squares: document.querySelectorAll("#marks rect.human").length,
        crosses: document.querySelectorAll("#marks path.other").length,
        links: document.querySelectorAll("#marks path.link").length,
        fault: $("fault").hidden ? "" : $("fault").textContent,
        pixel: [...$("picture").getContext("2d").getImageData(5, 5, 1, 1).data],
        cells: [...document.querySelectorAll("#joints tbody td")].map((cell) => cell.textContent),
    })""")
    return found


def pressed(browser: Browser, key: str, *, shift: bool = False) -> dict[str, Any]:
    browser.key(key, shift=shift)
    return state(browser)


def test_script_shows_frames_marks_and_numbers(browser: Browser, labels: Path) -> None:
    (labels.parent / "ants" / "000002.png").unlink()
    save_coco(dataset(shift=4.0), labels.parent / "truth.json")
    browser.open(view(labels, progress=False, compare=labels.parent / "truth.json"))
    start = state(browser)
    assert start["place"] == "frame 0 · 1 of 8 · 0.00 s"
    assert (start["squares"], start["circles"], start["crosses"], start["links"]) == (5, 0, 5, 5)
    assert start["cells"][:4] == ["label", "4.0", "label", "4.0"]
    second = pressed(browser, "ArrowRight")
    assert second["frame"] == 1
    assert (second["squares"], second["circles"]) == (0, 5)
    assert second["pixel"][:3] == pytest.approx([45, 45, 45], abs=3)
    assert second["cells"] == [
        "0.89", "4.0", "0.89", "4.0", "0.50", "4.0", "0.50", "4.0", "0.20", "4.0", "–", "–",
    ]  # fmt: skip
    opacity = (
        "Number(document.querySelector('#marks [data-joint=\"%d\"]').getAttribute('fill-opacity'))"
    )
    assert browser.run(opacity % 2) < browser.run(opacity % 1) < browser.run(opacity % 0) < 1
    missing = pressed(browser, "ArrowRight")
    assert missing["fault"].startswith("ants/000002.png")
    assert missing["pixel"] == [0, 0, 0, 0]  # nothing drawn
    assert missing["circles"] == 5  # whose joints are known nevertheless
    problems = browser.run("$('problems').textContent")
    assert "1 frame missing or damaged" in problems
    assert "ants/000002.png" in problems
    assert browser.run("document.querySelector('#chart .missing').getAttribute('d')")[:5] == "M2.5 "
    assert browser.errors == []


def test_script_moves_by_keys_and_time_line(browser: Browser, labels: Path) -> None:
    browser.open(view(labels, progress=False))
    assert pressed(browser, "n")["frame"] == 4
    assert pressed(browser, "n")["frame"] == 4  # there is no later one
    assert pressed(browser, "p")["frame"] == 0
    assert pressed(browser, "w")["frame"] == 5
    assert pressed(browser, "End")["frame"] == 7
    assert pressed(browser, "ArrowLeft", shift=True)["frame"] == 0
    assert pressed(browser, "ArrowLeft")["frame"] == 0
    assert pressed(browser, "ArrowRight", shift=True)["frame"] == 7
    box = browser.run("$('timeline').getBoundingClientRect().toJSON()")
    for kind, part in (("mousePressed", 2.5), ("mouseMoved", 6.5), ("mouseReleased", 6.5)):
        browser.mouse(kind, box["x"] + part / COUNT * box["width"], box["y"] + 9, buttons=1)
        browser.until(f"wanted === {int(part)}")
        found = state(browser)
        assert abs(found["pixel"][0] - (20 + 25 * int(part))) < 4
    assert browser.run("$('timeline').getAttribute('aria-valuetext')") == "frame 6"
    assert browser.run("document.querySelector('#chart .human').getAttribute('d')").count("M") == 2
    tracks = "[...document.querySelectorAll('#chart .curve')].map((curve) => curve.dataset.track)"
    assert browser.run(tracks) == ["0", "1"]
    assert browser.errors == []


def test_script_hides_what_is_not_wanted(browser: Browser, labels: Path) -> None:
    browser.open(view(labels, progress=False, first=1, threshold=0.4))
    assert state(browser)["circles"] == 4  # all but the tail
    slide = "$('threshold').value = %g; $('threshold').dispatchEvent(new Event('input'))"
    browser.run(slide % 0.6)
    assert state(browser)["circles"] == 2  # the heads
    assert browser.run("document.querySelectorAll('#joints td.below').length") == 3
    browser.run(slide % 0)
    assert state(browser)["circles"] == 5
    for box in ("boxes", "names"):
        browser.run(f"$('show-{box}').click()")
    assert browser.run("document.querySelectorAll('#marks rect.box').length") == 2
    names = browser.run("[...document.querySelectorAll('#marks text')].map((t) => t.textContent)")
    assert names == ["head", "thorax", "tail", "head", "thorax"]
    assert browser.run("document.querySelectorAll('#marks .limb').length") == 3
    browser.run("$('show-predicted').click()")
    assert state(browser)["circles"] == 0
    assert pressed(browser, "n")["squares"] == 5
    browser.run("$('show-human').click()")
    assert state(browser)["squares"] == 0
    hidden = (
        "['compare-choice', 'measure-choice', 'missing-key', 'problems'].every((i) => $(i).hidden)"
    )
    assert browser.run(hidden)
    assert browser.errors == []


def test_script_plays_at_the_videos_speed(browser: Browser, labels: Path) -> None:
    browser.open(view(labels, progress=False, fps=10, frames="annotated", every=2))
    state(browser)
    browser.run("window.seen = []; new MutationObserver(() => seen.push([performance.now(), at]))"
                ".observe($('place'), {childList: true})")  # fmt: skip
    begin = browser.run("$('play').click(); performance.now()")
    browser.until("!playing")
    seen = browser.run("seen")
    assert seen[-1][1] == 3  # numbers 0, 2, 4, 6
    assert all(
        (time - begin) / 1000 >= 0.2 * place - 0.01 for time, place in seen
    )  # never too fast
    assert browser.run("$('play').textContent") == "Play"
    browser.run("$('speed').value = '0.1'")
    browser.key(" ")  # again from the start
    browser.until("playing && at === 0")
    assert browser.run("$('play').getAttribute('aria-pressed')") == "true"
    browser.key(" ")
    assert not browser.run("playing")
    assert browser.errors == []


def test_script_zooms_and_tells_joints(browser: Browser, labels: Path) -> None:
    browser.open(view(labels, progress=False, first=1))
    state(browser)
    box = browser.run("$('stage').getBoundingClientRect().toJSON()")
    before = browser.run("view()")
    x, y = box["x"] + 200, box["y"] + 100
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
    browser.until("zoom.factor > 1")
    after = browser.run("view()")
    assert after["scale"] / before["scale"] == pytest.approx(np.exp(0.5))
    for axis, place in (("left", 200), ("top", 100)):  # the pixel under the mouse stays there
        pixels = [(place - of[axis]) / of["scale"] for of in (before, after)]
        assert pixels[0] == pytest.approx(pixels[1], abs=0.2)
    browser.mouse("mousePressed", x, y, buttons=1)
    browser.mouse("mouseMoved", x - 30, y, buttons=1)
    browser.mouse("mouseReleased", x - 30, y)
    assert browser.run("view().left") - after["left"] == pytest.approx(-30)
    browser.run("$('fit').click()")
    assert browser.run("view()") == before
    spot = browser.run("spots[0]")
    browser.mouse("mouseMoved", box["x"] + spot["x"] + 3, box["y"] + spot["y"])
    text = browser.run("$('tip').textContent")
    assert text == "head · track 0\nconfidence 0.89\nx 12.0, y 8.0"
    assert browser.run("document.querySelectorAll('#marks .chosen').length") == 1
    browser.key("ArrowRight")  # under a mouse that rests lies the next frame's joint
    browser.until("at === 1")
    assert browser.run("$('tip').hidden || !$('tip').textContent.includes('x 12.0')")
    browser.key("ArrowLeft")
    browser.until("at === 0 && $('tip').textContent.includes('x 12.0')")
    # The mark lies where the frame's pixel is drawn: its centre, in an image of half the size, too.
    scale = before["scale"]
    assert spot["x"] == pytest.approx(before["left"] + 12.5 * scale, abs=0.1)
    picture = browser.run("$('picture').getBoundingClientRect().toJSON()")
    assert picture["x"] - box["x"] == pytest.approx(before["left"], abs=0.1)
    assert picture["width"] == pytest.approx(80 * scale, rel=1e-3)
    browser.open(view(labels, progress=False, first=1, max_side=40))
    state(browser)
    assert browser.run("[$('picture').width, $('picture').height]") == [40, 24]
    assert browser.run("$('picture').getBoundingClientRect().toJSON()") == pytest.approx(picture)
    assert browser.errors == []


def test_script_changes_videos_on_a_narrow_screen(browser: Browser, tmp_path: Path) -> None:
    page = view(two_videos(tmp_path), progress=False, out=tmp_path / "page.html")
    browser.open(page, (390, 800), prefers_color_scheme="dark")
    assert state(browser)["frame"] == 0
    root = "document.documentElement"
    assert browser.run(f"{root}.scrollWidth === {root}.clientWidth")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    pressed(browser, "ArrowRight")
    browser.run("$('video').value = '1'; $('video').dispatchEvent(new Event('change'))")
    browser.until("film.name === 'right' && wanted === 0")
    assert state(browser)["frame"] == 0
    browser.run("location.hash = '#1:3'")
    browser.until("film.name === 'left'")
    assert state(browser)["frame"] == 3
    assert browser.errors == []
