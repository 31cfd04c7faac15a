"""The table of what holding boxes costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from posewarper.data.synthetic import write_dataset
from posewarper.models import save_model

sys.path.insert(0, str(Path(__file__).parent / "pose"))
from random_models import random_model

from benchmarks import hold_table

pytestmark = pytest.mark.usefixtures("one_thread")


def test_measured_and_written(tmp_path, monkeypatch):
    demo = tmp_path / "demo"
    write_dataset(
        demo / "videos", videos={"val": 2}, frames=5, size_wh=(128, 96), people=1, seed=1,
        progress=False,
    )  # fmt: skip
    (demo / "runs" / "warp").mkdir(parents=True)
    save_model(random_model(), demo / "runs" / "warp" / "best.pt")
    monkeypatch.setattr(hold_table, "HOLDS", (1, 5))
    page = tmp_path / "predict.md"
    page.write_text("before\n" + "\n".join(hold_table.MARKERS) + "\nafter\n", encoding="utf-8")
    places = ["--results", str(tmp_path / "hold.json"), "--page", str(page)]
    assert hold_table.main(["--demo", str(demo), "--videos", "1", *places]) == 0
    found = json.loads((tmp_path / "hold.json").read_text(encoding="utf-8"))
    assert found["videos"] == 1 and found["fps"] == 15
    own, held = found["rows"]["file"]
    assert own["hold"] == 1 and own["overlap"] == 1 and own["passes"] == 19 / 5
    assert held["hold"] == 5 and 0 < held["overlap"] < 1 and held["passes"] == 1
    assert all(0 <= share <= 100 for share in held["pckh"])
    written = page.read_text(encoding="utf-8")
    assert "| 1 | 3.80 |" in written and written.startswith("before") and "after" in written
    assert hold_table.main([*places, "--check"]) == 0
    page.write_text(written.replace("3.80", "4.80"), encoding="utf-8")
    assert hold_table.main([*places, "--check"]) == 1
