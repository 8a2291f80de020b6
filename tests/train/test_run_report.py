"""The report of a run: which numbers it draws, from a workspace and from a store, and what it says of what is no run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from scripts.report import main
from train.run_report import panels, write_run_report
from utils.errors import UserError
from utils.images import read_image, write_image

LINES = [
    {"step": 0, "val/epe": 9.0, "val/a/epe": 8.0, "val/b/epe": 10.0, "val/epe_constant": 5.0, "val/bad_2": 90.0},
    {"step": 10, "train/loss": 4.0, "train/sequence": 3.0, "train/epe": 6.0, "train/a/epe": 6.0, "train/bad_1": 70.0, "lr": 1e-3},
    {"step": 20, "train/loss": 9.0, "train/epe": None, "lr": 5e-4, "samples_per_s": 2.0, "train/grad_norm": 1.0},
    {"step": 20, "train/loss": 2.0, "lr": 4e-4, "val/epe": 3.0},  # after a return to step 10
]


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "run <1>"
    folder.mkdir()
    text = "".join(json.dumps(line | {"time": 1.7e9}) + "\n" for line in LINES)
    (folder / "metrics.jsonl").write_text(text + '{"step": 30, "train/lo')  # killed in the middle of a line
    for step, level in ((10, 0), (20, 255)):
        (folder / "vis" / f"step_{step:08d}").mkdir(parents=True)
        write_image(folder / "vis" / f"step_{step:08d}" / "00_made_0.png", np.full((40, 120, 3), level, np.uint8))
    return folder


def curves():
    found = {}
    for line in LINES:
        for name, value in line.items():
            if name != "step" and value is not None:
                found.setdefault(name, []).append((line["step"], value))
    return found


def test_errors_stand_per_data_set_and_losses_without_metrics():
    found = panels(curves())
    assert {title: set(lines) for title, lines in found.items()} == {
        "loss": {"loss", "sequence"},
        "EPE, pixels": {"train", "val", "val/a", "val/b", "val, best constant"},  # one set is trained on, which is the total
        "learning rate": {"lr"},
        "samples per second": {"samples_per_s"},
    }
    assert found["EPE, pixels"]["val/b"] == [(0, 10.0)]


def test_panels_without_numbers_are_left_out():
    assert list(panels({"lr": [(1, 0.1)]})) == ["learning rate"]


def test_the_page_holds_all_and_a_step_that_was_repeated_counts_as_it_became(workspace):
    page = write_run_report(str(workspace), workspace / "out.html").read_text()
    assert "run &lt;1&gt;" in page and "data:image/png;base64," in page and "src=" in page and 'src="http' not in page
    assert "<td>train/loss</td><td>20</td><td>2</td><td>2</td><td>4</td>" in page


def test_the_picture_shows_the_newest_previews(workspace, monkeypatch):
    shown = []
    monkeypatch.setattr("train.run_report.read_image", lambda path: shown.append(path) or read_image(path))
    result = CliRunner().invoke(main, [str(workspace)])
    assert result.exit_code == 0 and str(workspace / "report.png") in result.output
    assert [path.parent.name for path in shown] == ["step_00000020"]
    height, width = read_image(workspace / "report.png").shape[:2]
    assert width > 800 and height > 800
    assert (read_image(workspace / "report.png") != 255).any()


def test_a_run_in_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "p.png", np.zeros((8, 8, 3), np.uint8))
    folder = SimpleNamespace(path="vis/step_00000020", is_dir=True)

    class Store:
        def get_run(self, run_id):
            return SimpleNamespace(data=SimpleNamespace(metrics={"train/loss": 2.0}), info=SimpleNamespace(run_name="far"))

        def get_metric_history(self, run_id, name):
            return [SimpleNamespace(step=20, value=2.0), SimpleNamespace(step=10, value=4.0)]

        def list_artifacts(self, run_id, path):
            return [folder] if path == "vis" else [SimpleNamespace(path=f"{path}/p.png", is_dir=False)]

        def download_artifacts(self, run_id, path, target):
            assert path == "vis/step_00000020/p.png"
            return str(tmp_path / "p.png")

    page = write_run_report("a" * 32, tmp_path / "far.html", client=Store()).read_text()
    assert "run far" in page and "<td>train/loss</td><td>20</td><td>2</td><td>2</td><td>4</td>" in page


def test_one_line_for_what_is_no_run(workspace, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").touch()
    for arguments, expected in (
        ([str(tmp_path / "nowhere")], "metrics.jsonl: no such file"),
        ([str(empty)], "no numbers have been logged yet"),
        ([str(workspace), "--output", "r.gif"], "expected .png or .html"),
        ([str(workspace), "--output", str(workspace / "metrics.jsonl" / "r.png")], "cannot be written"),
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2 and expected in result.output and result.output.count("\n") == 1, result.output


def test_curves_of_one_set_only_are_not_drawn_twice():
    assert set(panels({"val/epe": [(0, 1.0)], "val/a/epe": [(0, 1.0)]})["EPE, pixels"]) == {"val"}
    with pytest.raises(UserError, match="no such file"):
        write_run_report("nowhere", None)
