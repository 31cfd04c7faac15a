"""Many videos: each once, by one process or two, also after an interrupt or a killed process."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_videos import write_video
from random_models import random_model
from streamed_faces import model_of_faces, write_clip
from torch.distributed import HashStore

from posewarper import cli
from posewarper.data.annotations import load_coco
from posewarper.data.synthetic import write_dataset
from posewarper.data.video import FrameSource
from posewarper.inference import shared_aggregation
from posewarper.models import save_model
from posewarper.prediction import aggregate
from posewarper.shares import Sharing, meet, plain_settings, settled_folder
from posewarper.streaming import command, many, predict
from posewarper.streaming.pipeline import Summary

ROOT = Path(__file__).parents[2]
LENGTHS = {"a": 6, "sub/b": 5, "c": 4, "sub/a": 3, "e": 2}

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Five videos in two folders, two of one name; a model for them; the results one by one."""
    root = tmp_path_factory.mktemp("many")
    (root / "videos" / "sub").mkdir(parents=True)
    for name, count in LENGTHS.items():
        write_video(root / "videos" / f"{name}.mp4", count)
    save_model(model_of_faces(), root / "faces.pt")
    for name in LENGTHS:
        video, out = root / "videos" / f"{name}.mp4", root / "alone" / f"{name}.json"
        predict(str(video), out, **plain(root))
    return root


def plain(root, **options):
    defaults = {"model": root / "faces.pt", "boxes": "frame", "device": "cpu", "progress": False}
    return {**defaults, **options}


def run(root, out, video="videos/**/*.mp4", **options):
    return predict(str(root / video), out, **plain(root, **options))


def same_as_alone(root, out):
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("[!.]*.json"))
    ours = [name for name in names if not name.startswith((".run", "summary", "all"))]
    assert ours == sorted(f"{name}.json" for name in LENGTHS)
    for name in ours:
        assert (out / name).read_bytes() == (root / "alone" / name).read_bytes()
    left = [p for p in out.rglob(".*") if p.name != ".run"]
    assert left == []


@pytest.fixture
def begun(monkeypatch):
    """Names of the videos that were begun."""
    names, work = [], command.predict_stream

    def noted(source, *args, **options):
        names.append(source.video.name)
        return work(source, *args, **options)

    monkeypatch.setattr(command, "predict_stream", noted)
    return names


def test_each_as_if_alone_the_largest_first(root, tmp_path, begun, capsys):
    got = run(root, tmp_path / "out", merge=tmp_path / "all.json")
    same_as_alone(root, tmp_path / "out")
    sizes = {name: (root / "videos" / f"{name}.mp4").stat().st_size for name in LENGTHS}
    order = sorted(LENGTHS, key=sizes.get, reverse=True)
    assert begun == [Path(name).name for name in order]
    assert [note["name"] for note in got.videos] == order
    assert (got.frames, got.people, got.written) == (20, 20, True)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["total"]["videos"] == 5 and summary["total"]["frames"] == 20
    assert {note["name"]: note["frames"] for note in summary["videos"]} == LENGTHS
    assert all(note["seconds"] > 0 and note["error"] == "" for note in summary["videos"])
    assert "20 people in 20 frames of 5 videos" in capsys.readouterr().out


def test_one_file_of_all(root, tmp_path):
    """Frames are found below the folder of the videos; people are those of the single files."""
    run(root, tmp_path / "out", merge=tmp_path / "all.json")
    got = load_coco(tmp_path / "all.json")
    assert [video.name for video in got.videos] == sorted(LENGTHS)
    assert [video.path for video in got.videos] == [f"{name}.mp4" for name in sorted(LENGTHS)]
    source = FrameSource(root / "videos", "error", dataset=got)
    for position, name in enumerate(sorted(LENGTHS)):
        one = load_coco(root / "alone" / f"{name}.json")
        part = got.select(videos=np.array([position]))
        np.testing.assert_array_equal(part.people.keypoints, one.people.keypoints)
        np.testing.assert_array_equal(part.frames.number, one.frames.number)
        assert source.read(part.videos[0], 1).shape == (48, 64, 3)
    again = run(root, tmp_path / "tables", format="csv", merge=tmp_path / "all.csv")
    assert again.people == 20
    with open(tmp_path / "all.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["video_path"] for row in rows) == {f"{n}.mp4": c for n, c in LENGTHS.items()}


def test_merged_folders_of_images(root, tmp_path):
    for name in ("x", "y/x"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        write_clip(tmp_path / "clips" / name)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/clips/x\n\n{tmp_path}/clips/y/x\n")
    out = tmp_path / "out"
    run(root, out, tmp_path / "list.txt", merge=tmp_path / "all.json", overlay=tmp_path / "films")
    got = load_coco(tmp_path / "all.json")
    assert [video.name for video in got.videos] == ["x", "y/x"]
    assert got.frames.file_name == tuple(f"{v}/{n}.png" for v in ("x", "y/x") for n in range(3))
    source = FrameSource(tmp_path / "clips", "error", dataset=got)
    assert source.read(got.videos[1], 2).mean() == 120
    assert sorted(p.name for p in (tmp_path / "films").rglob("*.mp4")) == ["x.mp4", "x.mp4"]


def test_going_on_after_an_interrupt(root, tmp_path, begun, monkeypatch):
    """What is done is not done again; other settings are refused; a changed video is done again."""
    work = command.predict_stream

    def interrupted(source, *args, **options):
        if len(begun) == 2:
            raise KeyboardInterrupt
        return work(source, *args, **options)

    monkeypatch.setattr(command, "predict_stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "out")
    (tmp_path / "out" / "sub").mkdir(exist_ok=True)
    (tmp_path / "out" / "sub" / ".b.json.77.lines").write_text("half of it")  # of a killed run
    assert len(begun) == 2
    monkeypatch.setattr(command, "predict_stream", work)
    with pytest.raises(ValueError, match=r"other settings \(every: 1 -> 2\); .*remove .*\.run"):
        run(root, tmp_path / "out", every=2)
    got = run(root, tmp_path / "out", batch_size=32)  # which changes nothing
    assert len(begun) == 5 and got.frames == 20
    same_as_alone(root, tmp_path / "out")
    run(root, tmp_path / "out")
    assert len(begun) == 5
    (tmp_path / "out" / "c.json").unlink()
    run(root, tmp_path / "out")
    assert begun[5:] == ["c"]


def test_another_model_and_another_video(root, tmp_path, begun):
    shutil.copytree(root / "videos", tmp_path / "videos")
    model = shutil.copy(root / "faces.pt", tmp_path / "faces.pt")
    options = {"video": str(tmp_path / "videos" / "*.mp4"), "out": tmp_path / "out"}
    predict(**options, **plain(root, model=model))
    write_video(tmp_path / "videos" / "c.mp4", 9)
    del begun[:]
    predict(**options, **plain(root, model=model))
    assert begun == ["c"] and len(load_coco(tmp_path / "out" / "c.json").frames) == 9
    write_video(root.parent / "c.mp4", 3)
    with pytest.raises(ValueError, match=r"c\.json has the poses of .*videos/c\.mp4, and would"):
        predict(str(root.parent / "*.mp4"), tmp_path / "out", **plain(root, model=model))
    save_model(model_of_faces(padding=1.5), model)
    with pytest.raises(
        ValueError, match=r"model: faces\.pt, sha256 \w+ -> faces\.pt, sha256 \w+\)"
    ):
        predict(**options, **plain(root, model=model))


def test_damaged_videos(root, tmp_path, begun, monkeypatch):
    """They are told of, and the others are done; a later command tries them again."""
    shutil.copytree(root / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"no video" * 1000)
    (tmp_path / "videos" / "empty.mp4").write_bytes(b"")
    args = [
        "predict", f"{tmp_path}/videos/**/*.mp4", "--out", f"{tmp_path}/out", "--model",
        f"{root}/faces.pt", "--boxes", "frame", "--device", "cpu", "--progress", "false",
        "--merge", f"{tmp_path}/all.json",
    ]  # fmt: skip
    assert cli.main(args) == 2
    same_as_alone(root, tmp_path / "out")
    notes = json.loads((tmp_path / "out" / "summary.json").read_text())["videos"]
    errors = {note["name"]: note["error"] for note in notes if note["error"]}
    assert {*errors} == {"bad", "empty"} and "bad.mp4" in errors["bad"]
    assert len(load_coco(tmp_path / "all.json").videos) == 5
    write_video(tmp_path / "videos" / "bad.mp4", 2)
    (tmp_path / "videos" / "empty.mp4").unlink()
    del begun[:]
    assert cli.main(args) == 0 and begun == ["bad"]
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"no video" * 1000)
    with pytest.raises(ValueError, match=r"bad\.mp4"):
        predict(
            str(tmp_path / "videos" / "*.mp4"), tmp_path / "stopped", on_error="stop", **plain(root)
        )
    assert not (tmp_path / "stopped" / "a.json").exists()  # the largest comes first


def test_failures_and_restarts(root, tmp_path):
    """torchrun's restarts do not try them again; a full disk ends the run at once."""
    tried = []

    def fail(video, out, overlay, boxes):
        tried.append(Path(video).stem)
        raise error

    videos, error = [root / "videos" / f"{name}.mp4" for name in ("a", "e")], ValueError("broken")
    for attempt, times in ((0, 2), (1, 2), (0, 4)):
        with pytest.raises(ValueError, match=r"2 of 2 videos failed .*: a: broken; e: broken$"):
            many.predict_many(
                videos, tmp_path / "out", fail, suffix=".json", settings={},
                sharing=Sharing(attempt=attempt),
            )  # fmt: skip
        assert len(tried) == times
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        many.predict_many(videos, tmp_path / "full", fail, suffix=".json", settings={})
    assert len(tried) == 5


def test_names_of_results(tmp_path):
    """The ending stays where names would be the same otherwise, or that of the summary."""
    for name in ("a.mp4", "a.avi", "b.c.mp4", "summary.mp4", "sub/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1" * len(name))
    (tmp_path / "clip.d").mkdir()
    done = []

    def note(video, out, overlay, boxes):
        done.append(out.relative_to(tmp_path / "out").as_posix())
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("{}")
        return Summary(1, 1, written=True)

    found = many.find_videos(str(tmp_path / "*.*")) + many.find_videos(str(tmp_path / "sub/*"))
    many.predict_many(found, tmp_path / "out", note, suffix=".json", settings={})
    names = ["a.avi", "a.mp4", "b.c", "clip.d", "sub/a", "summary.mp4"]
    assert sorted(done) == [f"{name}.json" for name in names]


def test_boxes_of_many(root, tmp_path):
    """Labels of all videos, or a folder of files called like the results."""
    boxes = {"boxes": "last-pose", "lost_below": -1.0}
    run(root, tmp_path / "first", merge=tmp_path / "all.json")
    by_folder = run(root, tmp_path / "folder", box_file=tmp_path / "first", **boxes)
    assert by_folder.people == 20
    (tmp_path / "first" / "sub" / "a.json").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 videos failed .*sub/a: box_file: .*got none"):
        run(root, tmp_path / "lacking", box_file=tmp_path / "first", **boxes)
    (tmp_path / "few").mkdir()
    for name in ("c", "e"):
        shutil.copy(root / "videos" / f"{name}.mp4", tmp_path / "few")
    options = {"box_file": tmp_path / "all.json", **boxes}
    for_all = run(root, tmp_path / "file", tmp_path / "few" / "*.mp4", **options)
    assert for_all.people == 6
    for name, options, message in (
        ("x", {"box_file": tmp_path / "first" / "c.json"}, "box_file: expected labels of several"),
        ("x", {"overlay": tmp_path / "o.mp4"}, "overlay: expected a folder"),
        ("x", {"merge": tmp_path / "o.csv"}, r"merge: expected a file whose name ends in \.json"),
        ("x", {"merge": tmp_path / "o.json", "format": "coco"}, "merge: expected format dataset"),
        ("x", {"merge": tmp_path / "x" / "c.json"}, r"merge: .*c\.json is a file of results"),
        ("x", {"merge": tmp_path / "x" / "summary.json"}, r"merge: .* or the summary"),
        ("x", {"keep_partial": True}, "keep_partial: goes with one video"),
        ("x.json", {}, "out: expected a folder"),
        ("x", {"mode": "agregate"}, "^mode: expected aggregate or single"),
        ("x", {"video": "none/*.mp4"}, "video: no file or folder is called"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(root, tmp_path / name, **{"boxes": None, **options})
        assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="out: many videos need a folder"):
        run(root, None)
    with pytest.raises(ValueError, match="merge: goes with many videos"):
        run(root, tmp_path / "x.json", "videos/a.mp4", merge=tmp_path / "o.json")


def test_names_that_are_no_text(tmp_path, monkeypatch):
    """File names are bytes; a terminal of UTF-8 cannot show all of them."""
    video = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    video.write_bytes(b"x")
    with open(tmp_path / "told", "w", encoding="utf-8") as told:
        monkeypatch.setattr(sys, "stdout", told)
        got = many.predict_many(
            [video], tmp_path / "out", lambda *_: Summary(1, 2, written=True),
            suffix=".json", settings={},
        )  # fmt: skip
    assert got.videos[0]["video"] == str(video)
    assert "?: 2 people in 1 frames" in (tmp_path / "told").read_text(encoding="utf-8")


def test_lists_and_patterns(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root / "videos")
    (tmp_path / "l.txt").write_text("a.mp4\n\n  sub/b.mp4 \n")
    assert many.find_videos(f"{tmp_path}/l.txt") == [Path("a.mp4"), Path("sub/b.mp4")]
    (tmp_path / "l.txt").write_text("a.mp4\nc.mp4", encoding="utf-8-sig")  # as some editors do
    assert many.find_videos(f"{tmp_path}/l.txt") == [Path("a.mp4"), Path("c.mp4")]
    assert many.find_videos("?.mp4") == [Path(f"{name}.mp4") for name in "ace"]
    for single in ("a.mp4", "sub", "0", "rtsp://camera/?channel=*", "nothing.mp4"):
        assert many.find_videos(single) is None
    for content, message in (
        ("a.mp4\nz.mp4\n", r"l\.txt, line 2: there is no file or folder 'z\.mp4'"),
        ("\n", "is empty"),
        ("a.mp4\na.mp4", "names 'a.mp4' more than once"),
    ):
        (tmp_path / "l.txt").write_text(content)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            many.find_videos(f"{tmp_path}/l.txt")
    (root / "videos" / "[1].avi").touch()
    assert many.find_videos("[1].avi") is None  # a file, whatever it is called
    (root / "videos" / "[1].avi").unlink()


def test_processes_share_each_task_once():
    """Also those of a second start, which finds what the first one left in the store."""
    store = HashStore()
    store.set("asks 2", "of a process that is no more")
    for start in range(2):
        taken, made, late = {rank: [] for rank in range(4)}, [], []

        def work(rank, taken=taken, made=made, late=late, start=start):
            sharing = Sharing(rank, 4, rank, 4, 0, meet(store, rank, 4))
            plan = sharing.from_first(lambda: ["x" * 3_000_000, [1, start]])
            made.append((len(plan[0]), plan[1]))
            for number in sharing.take(50):
                time.sleep(0.01 if sharing.is_first else 0.15)  # who is slow gets less
                taken[rank].append(number)
            if sharing.is_first:
                sharing.wait()
                late.append(sum(len(numbers) for numbers in taken.values()))

        threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(n for numbers in taken.values() for n in numbers) == list(range(50))
        assert late == [50]  # the first one has waited for all
        assert made == [(3_000_000, [1, start])] * 4


def test_devices_and_threads(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    three = [Sharing(rank, 3, rank, 3, 0, HashStore()) for rank in range(3)]
    assert [sharing.device("auto") for sharing in three] == ["cuda:0", "cuda:1", "cuda:0"]
    assert three[1].device("cpu") == "cpu" and Sharing().device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match=r"device: expected auto, cpu or cuda .* got 'cuda:1'"):
        three[1].device("cuda:1")
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(9), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun sets it
    three[0].divide_threads()
    Sharing().divide_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    three[0].divide_threads()
    assert threads == [3]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"one video is not shared .* started 2"):
        predict("a.mp4", model=Path("m.pt"))


def test_one_run_at_a_time(tmp_path):
    settings = plain_settings({"a": (1, 2), "b": None})
    place = tmp_path / "notes", tmp_path
    with (
        settled_folder(*place, settings),
        pytest.raises(ValueError, match="another run is making"),
        settled_folder(*place, settings),
    ):
        pass
    with settled_folder(*place, {"a": [1, 2], "b": None}):
        pass


@pytest.fixture(scope="module")
def people(root):
    """A data set of four videos, and the result of ``aggregate``."""
    write_dataset(
        root / "set", videos={"val": 4}, frames=3, size_wh=(128, 96), people=2, progress=False,
        seed=4,
    )  # fmt: skip
    save_model(random_model(), root / "people.pt")
    aggregated(root, root / "one.json")
    return root


def aggregated(root, out, **options):
    return aggregate(
        root / "set" / "annotations" / "posetrack_val.json", out, model=root / "people.pt",
        images=root / "set", device="cpu", progress=False, **options,
    )  # fmt: skip


def test_another_model_in_the_same_folder(people, tmp_path, monkeypatch):
    """Training went on after an interrupt: parts of the model before must not be taken."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(people / "people.pt", folder / "best.pt")
    monkeypatch.setattr("posewarper.prediction.join_sharing", lambda: Sharing(store=HashStore()))

    def interrupted(*_):
        raise RuntimeError("killed")

    def go_on():
        aggregate(
            people / "set" / "annotations" / "posetrack_val.json", tmp_path / "out", model=folder,
            images=people / "set", device="cpu", progress=False,
        )  # fmt: skip

    monkeypatch.setattr(shared_aggregation, "_one", interrupted)
    with pytest.raises(RuntimeError, match="killed"):
        go_on()
    save_model(random_model(padding=1.5), folder / "best.pt")
    with pytest.raises(ValueError, match=r"model: best\.pt, sha256 \w+ -> best\.pt, sha256 \w+"):
        go_on()


def test_aggregation_goes_on_after_an_interrupt(people, tmp_path, monkeypatch, capsys):
    """Two modes; a frame is missing, and a detector saw people in frames that nobody lists."""
    root, boxes = tmp_path / "copy", []
    shutil.copytree(people / "set", root / "set")
    shutil.copy(people / "people.pt", root)
    index = root / "set" / "annotations" / "posetrack_val.json"
    labels = load_coco(index)
    listed = json.loads(index.read_text())
    dropped = [image for image in listed["images"] if image["frame_number"] == 2]
    listed["images"] = [image for image in listed["images"] if image not in dropped]
    known = {image["id"] for image in listed["images"]}
    listed["annotations"] = [a for a in listed["annotations"] if a["image_id"] in known]
    index.write_text(json.dumps(listed))
    for row, frame in enumerate(labels.people.frame.tolist()):
        name, box = labels.frames.file_name[frame], labels.people.bbox[row].tolist()
        boxes.append({"image_name": name, "bbox": box, "score": 0.9})
    (root / "boxes.json").write_text(json.dumps(boxes[::-1]))
    (root / "set" / labels.frames.file_name[1]).unlink()
    options = {"mode": "both", "boxes": root / "boxes.json", "missing": "skip", "nms": 0.9}
    plain = aggregated(root, root / "plain", **options)
    told = capsys.readouterr()
    assert "frames left out" in told.err

    one = Sharing(store=HashStore())
    monkeypatch.setattr("posewarper.prediction.join_sharing", lambda: one)
    done, save = [], shared_aggregation._save

    def saved(found, video, parts):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(video)
        save(found, video, parts)

    monkeypatch.setattr(shared_aggregation, "_save", saved)
    with pytest.raises(KeyboardInterrupt):
        aggregated(root, root / "out", **options)
    assert not (root / "out").exists()
    first, done[:] = done[:], []
    one = Sharing(store=HashStore())
    with pytest.raises(ValueError, match=r"out was begun with other settings \(nms: 0\.9 -> 0\.8"):
        aggregated(root, root / "out", **{**options, "nms": 0.8})
    one = Sharing(store=HashStore())
    got = aggregated(root, root / "out", **options)
    assert sorted(first + done) == [0, 1, 2, 3] and len(first) == 2
    assert capsys.readouterr().err == told.err
    for name in ("aggregate", "single"):
        ours, theirs = got[name], plain[name]
        assert ours.frames.image_id.tolist() == theirs.frames.image_id.tolist()
        assert ours.frames.labelled.tolist() == theirs.frames.labelled.tolist()
        assert ours.people.frame.tolist() == theirs.people.frame.tolist()
        # Crops meet in other batches than those of all videos do.
        np.testing.assert_allclose(ours.people.keypoints, theirs.people.keypoints, atol=1e-3)
        np.testing.assert_allclose(ours.people.score, theirs.people.score, atol=1e-5)
    assert not (root / ".out.parts").exists()


def torchrun(*arguments, processes=2, restarts=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
            str(processes), "--max-restarts", str(restarts), *map(str, arguments),
        ],
        capture_output=True, text=True, env=environment, cwd=ROOT, timeout=250,
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_two_processes_of_which_one_is_killed(people):
    """Results are those of one process; only what was not done is done after the restart."""
    root = people
    done = torchrun(Path(__file__).with_name("killed_run.py"), root, restarts=1)
    assert done.returncode == 0, done.stderr[-3000:]
    same_as_alone(root, root / "two")
    log = [line.split(maxsplit=1) for line in (root / "log").read_text().splitlines()]
    assert ["0", "killed"] in log
    kept = Counter(what.split()[1] for attempt, what in log if what.startswith("kept"))
    again = Counter(
        what.split()[1] for attempt, what in log if attempt == "1" and what.startswith("began")
    )
    assert kept.total() >= 2 and again.total() >= 1
    assert kept + again == Counter(Path(name).name for name in LENGTHS)
    assert len(load_coco(root / "two.all.json").videos) == 5
    assert (root / "two.json").read_bytes() == (root / "one.json").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_machines(people, tmp_path):
    """Two launchers that share a folder; after one has failed, it alone counts a restart."""
    root = tmp_path / "root"
    shutil.copytree(people / "set", root / "set")
    shutil.copytree(people / "videos", root / "videos")
    for name in ("faces.pt", "people.pt"):
        shutil.copy(people / name, root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    line = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-endpoint", place,
        str(Path(__file__).with_name("killed_run.py")), str(root),
    ]  # fmt: skip
    options = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "cwd": ROOT}
    machines = [subprocess.Popen(line, **options) for _ in range(2)]
    try:
        assert [machine.wait(300) for machine in machines] == [0, 0]
    finally:
        for machine in machines:
            machine.kill()
    assert "killed" in (root / "log").read_text()
    same_as_alone(people, root / "two")
    assert (root / "two.json").read_bytes() == (people / "one.json").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(800)
@pytest.mark.parametrize("processes", [1, 2])
def test_commands(people, tmp_path, processes):
    """As it is typed; a video that cannot be read makes the command fail, the others are done."""
    root = people
    videos = shutil.copytree(root / "videos", tmp_path / "videos")
    (videos / "bad.mp4").write_bytes(b"no video")
    line = ["-m", "posewarper", "predict", f"{videos}/**/*.mp4", "--out", tmp_path / "out"]
    options = ["--model", root / "faces.pt", "--boxes", "frame", "--device", "cpu"]
    failed = torchrun(*line, *options, processes=processes)
    assert failed.returncode != 0
    assert "posewarper: error: 1 of 6 videos failed" in failed.stderr
    (videos / "bad.mp4").unlink()
    done = torchrun(*line, *options, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "5 of 5 videos are done already" in done.stdout
    same_as_alone(root, tmp_path / "out")
    line = ["-m", "posewarper", "aggregate", root / "set" / "annotations" / "posetrack_val.json"]
    options = ["--images", root / "set", "--model", root / "people.pt", "--device", "cpu"]
    done = torchrun(*line, tmp_path / "poses.json", *options, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "poses.json").read_bytes() == (root / "one.json").read_bytes()


def test_table_of_the_documentation(capsys):
    """The rows of the calculation are what its code prints."""
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(compile(code, "scaling.md", "exec"), {})
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and all(row in text.splitlines() for row in rows)
