"""Every option of the commands on files reaches what acts on it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import onnx
import pytest
import yaml
from option_inputs import anything, exists, named, write_inputs
from option_places import Case, Cases, On, Place, check
from random_models import random_model

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.formats import save_labels
from posewarper.data.posetrack import load_posetrack, save_posetrack
from posewarper.export.comparison import Comparison
from posewarper.inference.propagation import propagate_labels
from posewarper.models import WINDOWS, save_model

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """What the other commands have, and labels in more formats."""
    root = write_inputs(tmp_path_factory.mktemp("inputs"))
    for split in ("train", "val"):
        dense, sparse = (load_coco(root / f"{kind}{split}.json") for kind in ("", "sparse-"))
        save_labels(dense, root / f"{split}.csv")
        save_labels(dense, root / f"{split}-tasks.json", format="label-studio")
        spread = propagate_labels(sparse, None, "copy")
        save_coco(spread, root / f"dense-{split}.json")
        save_labels(spread, root / f"dense-{split}.csv")
        official = root / "data" / "annotations" / split
        for name in ("predicted-", ""):
            save_posetrack(load_posetrack(official), root / f"{name}17-{split}", "posetrack17")
        results = [
            {key: entry[key] for key in ("image_id", "category_id", "keypoints")} | {"score": 0.9}
            for entry in json.loads((root / f"{split}.json").read_text())["annotations"]
        ]
        (root / f"results-{split}.json").write_text(json.dumps(results))
    joints = load_coco(root / "val.json").skeleton.joints
    some = {"joints": list(joints), "sigmas": [0.05] * len(joints)}
    (root / "joints.yaml").write_text(yaml.safe_dump(some))
    film = cv2.VideoWriter(str(root / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 72))
    for image in sorted((root / "train").iterdir()):
        film.write(cv2.imread(str(image)))
    film.release()
    save_model(random_model(head=False), root / "single.pt")
    return root


def text_of(path: Path) -> Place:
    """What is in a file, if it is there."""
    return lambda ran: path.read_text() if path.exists() else None


def has(text: str):
    return lambda seen: text in seen


def printed(ran):
    return ran.printed


def evaluate_cases(root: Path, out: Path) -> list[Case]:
    official = root / "data" / "annotations"
    pck = "posewarper.evaluation.datasets"
    return [
        Case(
            {
                "truth": On(
                    official / "val", "posewarper.evaluation.posetrack_ap:pair_files(truth_dir)"
                ),
                "predictions": On(
                    official / "val",
                    "posewarper.evaluation.posetrack_ap:pair_files(prediction_dir)",
                ),
                "tracking": On(True, printed, has("MOTA")),
            },
            {"truth": official / "train", "predictions": official / "train"},
        ),
        Case(
            {
                "skeleton": On(
                    root / "joints.yaml",
                    "posewarper.evaluation:evaluate_oks(skeleton)",
                    lambda s: s.name.endswith("joints.yaml"),
                )
            },
            {
                "truth": root / "train.json",
                "predictions": root / "results-train.json",
                "metric": "oks",
            },
        ),
        Case(
            {
                "metric": On("pck", f"{pck}:evaluate_pck(thresholds)", anything),
                "truth": On(
                    root / "val.json", f"{pck}:aligned_keypoints(truth)", named("val.json")
                ),
                "predictions": On(
                    root / "dense-val.json",
                    f"{pck}:aligned_keypoints(predicted)",
                    named("dense-val.json"),
                ),
                "thresholds": On([0.3, 0.4], f"{pck}:evaluate_pck(thresholds)"),
                "lengths": On("box", f"{pck}:box_lengths(boxes)", anything),
                "per_joint": On(True, printed, has("left_ankle")),
                "out": On(out / "numbers.csv", text_of(out / "numbers.csv"), has("metric,")),
            },
            {"truth": official / "train", "predictions": official / "train"},
        ),
    ]


def stats_cases(root: Path, out: Path) -> list[Case]:
    return [
        Case(
            {
                "annotations": On(
                    root / "sparse-val.json",
                    "posewarper.data.sparsify:statistics(dataset)",
                    named("sparse-val.json"),
                ),
                "json": On(
                    True,
                    printed,
                    lambda text: isinstance(json.loads(text), dict) if text[0] == "{" else False,
                ),
            },
            {"annotations": root / "val.json"},
        )
    ]


def convert_cases(root: Path, out: Path) -> list[Case]:
    labels = "posewarper.data.formats.labels"
    base = {"source": root / "train.csv", "out": out / "plain.json"}
    return [
        Case(
            {
                "source": On(root / "val-tasks.json", f"{labels}:_read(path)"),
                "format": On(
                    "label-studio",
                    "posewarper.cli:load_labels(format)",
                ),
                "out": On(out / "labels.csv", exists(out / "labels.csv"), True),
                "to": On("deeplabcut", text_of(out / "labels.csv"), has("scorer,")),
                "video": On(root / "val", f"{labels}:attach(videos)"),
                "skeleton": On(
                    root / "joints.yaml",
                    f"{labels}:LabelFile.dataset(skeleton)",
                    lambda s: s.name.endswith("joints.yaml"),
                ),
            },
            base,
        ),
        Case(
            {
                "images": On(
                    root / "same",
                    "posewarper.cli:fill_sizes(source)",
                    lambda s: s.root == root / "same",
                )
            },
            base,
        ),
        Case(
            {"renamed": On(False, "posewarper.data.posetrack:_read_17(renamed)")},
            {"source": root / "17-train", "out": out / "17.json"},
        ),
    ]


def sparsify_cases(root: Path, out: Path) -> list[Case]:
    rule = "posewarper.data.sparsify"
    base = {"annotations": root / "train.json", "out": out / "plain.json"}
    return [
        Case(
            {
                "annotations": On(
                    root / "val.json", f"{rule}:every_kth(dataset)", named("val.json")
                ),
                "out": On(out / "sparse.json", exists(out / "sparse.json"), True),
                "every": On(3, f"{rule}:every_kth(step)"),
                "offset": On(2, f"{rule}:every_kth(offset)"),
            },
            {**base, "every": 2},
        ),
        Case(
            {
                "frames": On(2, f"{rule}:frames_per_video(count)"),
                "spread": On("random", f"{rule}:frames_per_video(spread)"),
                "seed": On(
                    5, f"{rule}:frames_per_video(seed)", also=(f"{rule}:choose_videos(seed)",)
                ),
                "videos": On(1, f"{rule}:choose_videos(count)"),
            },
            {**base, "frames": 3},
        ),
        Case(
            {
                "protocol": On("posetrack", f"{rule}:posetrack_protocol(step)", 3),
                "every": On(3, f"{rule}:posetrack_protocol(step)"),
            },
            {**base, "every": 2},
        ),
    ]


def synthesize_cases(root: Path, out: Path) -> list[Case]:
    make = "posewarper.data.synthetic"
    return [
        Case(
            {
                "out": On(out / "data", exists(out / "data" / "annotations"), True),
                "train": On(2, f"{make}:_video_seed(index)", at_most_one),
                "val": On(0, f"{make}:_video_seed(split)", "train"),
                "people": On(1, f"{make}:generate_video(people)"),
                "seed": On(4, f"{make}:_video_seed(seed)"),
                "fps": On(12.0, f"{make}:generate_video(fps)"),
                "difficulty": On(
                    {"noise": 1.0}, f"{make}:generate_video(difficulty)", lambda d: d.noise == 1
                ),
                "overwrite": On(True, "posewarper.cli:write_dataset(overwrite)"),
                "video": On(True, f"{make}:_entry(as_video)"),
            },
            {"out": out / "plain", "frames": 2, "width": 64, "height": 48},
        ),
        Case(
            {
                "frames": On(3, f"{make}:generate_video(frames)"),
                "width": On(64, f"{make}:generate_video(size_wh)", lambda wh: wh[0] == 64),
                "height": On(48, f"{make}:generate_video(size_wh)", lambda wh: wh[1] == 48),
            },
            {"out": out / "other"},
            until=f"{make}:generate_video",
        ),
    ]


def at_most_one(index: int) -> bool:
    return index <= 1


def suggest_cases(root: Path, out: Path) -> list[Case]:
    job = "posewarper.inference.suggestion"
    return [
        Case(
            {
                "labels": On(
                    root / "dense-val.csv", f"{job}:choose_frames(dataset)", named("dense-val.csv")
                ),
                "format": On("csv", f"{job}:load_labels(format)"),
                "out": On(out / "list.csv", text_of(out / "list.csv"), has("video,frame")),
                "count": On(2, f"{job}:choose_frames(count)"),
                "gap": On(3, f"{job}:_VideoState(gap)"),
                "images": On(root / "data", f"{job}:FrameSource(root)"),
                "fps": On(10.0, printed, has("0:00.")),
            },
            {"labels": root / "dense-train.json"},
        )
    ]


def view_cases(root: Path, out: Path) -> list[Case]:
    page, source = "posewarper.report.viewer", "posewarper.report.viewer_source"
    encoder = f"{page}:_Encoder"
    base = {"labels": root / "train.json", "images": root / "data", "out": out / "plain.html"}
    return [
        Case(
            {
                "labels": On(
                    root / "sparse-val.json",
                    f"{page}:frame_numbers(dataset)",
                    lambda d: "val" in d.videos[0].name,
                ),
                "out": On(out / "page.html", exists(out / "page.html"), True),
                "images": On(root / "same", f"{page}:FrameSource(root)"),
                "name": On("*val*", f"{source}:_chosen(name)"),
                "compare": On(root / "val.json", f"{page}:add_matches(people)", anything),
                "frames": On("human", f"{page}:frame_numbers(which)"),
                "first": On(1, f"{page}:frame_numbers(first)"),
                "last": On(5, f"{page}:frame_numbers(last)"),
                "every": On(2, f"{page}:frame_numbers(every)"),
                "max_side": On(48, f"{encoder}.max_side"),
                "quality": On(30, f"{encoder}.options", lambda o: o["quality"] == 30),
                "image_format": On("jpeg", f"{encoder}.options", lambda o: o["format"] == "JPEG"),
                "max_mb": On(50.0, f"{encoder}.max_mb"),
                "threshold": On(0.25, text_of(out / "page.html"), has('"threshold":0.25')),
                "fps": On(12.5, f"{page}:_Film.fps"),
                "progress": On(False, f"{page}:progress_bar(shown)"),
            },
            base,
        ),
        Case(
            {"video": On(root / "val", f"{source}:attach(videos)")},
            {"labels": root / "train.json", "out": out / "film.html", "video": root / "train"},
        ),
    ]


def little_graph(*_, **__):
    """In place of the exporter, which takes seconds."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "little", [value], [out])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])


def as_good(*_, **__):
    """In place of the comparison with PyTorch."""
    return Comparison(0.0, 0.0, 0.0, None, 1, 0, 1)


def export_cases(root: Path, out: Path) -> list[Case]:
    writing, graph = "posewarper.export.writing", "posewarper.export.writing:Graph"
    package = "posewarper.export.packages"
    until = f"{writing}:captured"
    base = {"model": root / "0.pt", "out": out / "plain.onnx"}
    return [
        Case(
            {
                "model": On(root / "1.pt", "posewarper.models.pose_model:read_content(path)"),
                "deform_op": On("GridSample", "pwkernels.onnx_translation:table(deform_op)"),
                "opset": On(21, f"{writing}:captured(opset)"),
                "refinement": On("dark", f"{graph}.refinement"),
                "normalise": On(False, f"{graph}.bytes_in"),
                "window": On("paper", f"{graph}.window", WINDOWS["paper"]),
                "precision": On("fp16", "posewarper.export.graphs:to_half(network)", anything),
                "dynamic_size": On(True, f"{writing}:captured(dynamic_size)"),
                "images": On(root / "train", f"{writing}:real_inputs(path)"),
            },
            base,
            until=until,
        ),
        Case({"decode": On(False, f"{graph}.refinement", None)}, base, until=until),
        Case({"fold": On(False, f"{graph}.key_offsets", [])}, base, until=until),
        Case({"mode": On("pair", f"{graph}.mode")}, base, until=until),
        Case(
            {
                "skeleton": On(
                    "posetrack", "posewarper.export.command:find_skeleton(name_or_file)"
                ),
                "crop_wh": On([64, 96], "posewarper.models.pose_model:PoseModel.crop_wh"),
                "dilations": On(
                    [2, 3, 5], "posewarper.models.pose_model:PoseModel.config.dilations"
                ),
            },
            {**base, "model": root / "0.pth", "dilations": [1, 2, 4], "crop_wh": [96, 128]},
            until=until,
        ),
        Case(
            {
                "out": On(out / "pose.onnx", exists(out / "pose.onnx"), True),
                "compare": On(False, printed, has("not compared")),
            },
            {"model": root / "single.pt", "out": out / "single.onnx"},
            {f"{writing}:captured": little_graph, f"{writing}:compare": as_good},
        ),
        Case(
            {
                "format": On("aoti", f"{package}:_captured(mode)", anything),
                "device": On("auto", f"{package}:choose_device(name)"),
                "out": On(out / "pose.pt2", f"{package}:check_use(path)"),
            },
            {"model": root / "single.pt", "out": out / "other.onnx"},
            stubs={f"{package}:_check_compiler": lambda: None},
            until=f"{package}:_compiled",
        ),
    ]


TABLE: dict[str, Cases] = {
    "evaluate": evaluate_cases,
    "stats": stats_cases,
    "convert": convert_cases,
    "sparsify": sparsify_cases,
    "synthesize": synthesize_cases,
    "suggest": suggest_cases,
    "view": view_cases,
    "export": export_cases,
}


@pytest.mark.parametrize("command", TABLE)
def test_every_option_arrives(command, root, tmp_path, monkeypatch, capfd):
    check(command, TABLE[command], root, tmp_path, monkeypatch, capfd)
