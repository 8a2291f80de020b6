"""One picture, or one page, of how a run went: losses, errors per data set, learning rates, throughput, and the newest previews.

The numbers come from `metrics.jsonl` of its workspace, or from MLflow; nothing is measured here.
"""

import base64
import html
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from train.load import RUN_ID
from train.metrics_sync import answering, connect
from train.plotting import plots
from train.trackers import METRICS_FILE, numbers, read_metrics
from utils.errors import UserError
from utils.files import write_atomic
from utils.images import read_image

PREVIEWS = 3
Curve = list[tuple[int, float]]  # (step, value), by step


class History(NamedTuple):
    """What a run logged. previews: (step, picture files) of the newest step that has any."""

    name: str
    curves: dict[str, Curve]
    previews: tuple[int, list[Path]] | None


def write_run_report(run: str, output: Path | None, *, client: Any = None) -> Path:
    """Draw `run`, a workspace or an MLflow run id, as a .png or a self-contained .html; returns the file.

    output: `report.png` in the workspace, or in the current folder for a run in MLflow, when not given. client: for tests, in place of
    MlflowClient. Raises UserError for what is no run, a run that has logged nothing yet, and a place that cannot be written.
    """
    workspace = Path(run).expanduser()
    of_store = not workspace.exists() and RUN_ID.fullmatch(run) is not None
    output = output or (Path() if of_store else workspace) / "report.png"
    if output.suffix not in (".png", ".html"):
        raise UserError(f"--output {output}: unknown kind of file '{output.suffix}'; expected .png or .html")
    with ExitStack() as stack:
        if of_store:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stereofoundry_")))
            history = _of_store(run, client or connect(), folder)
        else:
            history = _of_workspace(workspace)
        if not history.curves:
            raise UserError(f"{run}: no numbers have been logged yet; wait for the first --log_every steps")
        try:
            picture = output if output.suffix == ".png" else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "report.png"
            draw(history, picture)
            if picture != output:
                write_atomic(output, as_page(history, picture))
        except OSError as error:
            raise UserError(f"{output}: cannot be written ({error.strerror}); pass an --output that can") from None
    return output


def _of_workspace(workspace: Path) -> History:
    path = workspace / METRICS_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the workspace of a run, or the 32 digits of an MLflow run id")
    points: dict[str, dict[int, float]] = {}
    for line in read_metrics(path):  # a run that went back to an earlier step has steps twice: the later line is what became of it
        for name, value in numbers(line).items():
            points.setdefault(name, {})[line["step"]] = value
    curves = {name: sorted(curve.items()) for name, curve in points.items()}
    shown = sorted((workspace / "vis").glob("step_*"))
    pictures = sorted(shown[-1].glob("*.png")) if shown else []
    return History(workspace.resolve().name, curves, (_step(shown[-1].name), pictures) if pictures else None)


def _of_store(run_id: str, client: Any, folder: Path) -> History:
    with answering():
        run = client.get_run(run_id)
        curves = {
            name: sorted({point.step: point.value for point in client.get_metric_history(run_id, name)}.items())
            for name in run.data.metrics
        }
        shown = sorted(entry.path for entry in client.list_artifacts(run_id, "vis") if entry.is_dir)
        stored = [entry.path for entry in client.list_artifacts(run_id, shown[-1])] if shown else []
        pictures = [Path(client.download_artifacts(run_id, path, str(folder))) for path in sorted(stored)[:PREVIEWS]]
    return History(run.info.run_name or run_id, curves, (_step(shown[-1]), pictures) if pictures else None)


def _step(folder: str) -> int:
    return int(folder.rpartition("_")[2]) if folder.rpartition("_")[2].isdigit() else 0


def panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Title -> label -> curve of what is drawn, without the panels that have nothing to show.

    Errors are told apart by data set, where there are several, and by training and validation; a learning rate is a number called `lr` or
    `lr/<group>`.
    """
    losses = {name.removeprefix("train/"): curve for name, curve in curves.items() if name.startswith("train/") and _is_loss(name, curves)}
    errors = {name.removesuffix("/epe"): curve for name, curve in curves.items() if name.endswith("/epe")}
    for side in ("train", "val"):  # of a single data set, the total says the same
        sets = [label for label in errors if label.startswith(f"{side}/")]
        if len(sets) == 1:
            del errors[sets[0]]
    if "val/epe_constant" in curves:
        errors["val, best constant"] = curves["val/epe_constant"]
    rates = {name: curve for name, curve in curves.items() if name == "lr" or name.startswith("lr/")}
    speed = {name: curves[name] for name in ("samples_per_s",) if name in curves}
    found = {"loss": losses, "EPE, pixels": errors, "learning rate": rates, "samples per second": speed}
    return {title: lines for title, lines in found.items() if lines}


def _is_loss(name: str, curves: Mapping[str, Curve]) -> bool:
    """Of the numbers under train/: neither a metric, which the validation has as well or which names a data set, nor the gradient norm."""
    metrics = {other.rpartition("/")[2] for other in curves if other.startswith("val/")} | {"epe", "bad_1", "d1_all", "grad_norm"}
    return name.rpartition("/")[2] not in metrics


def draw(history: History, path: Path) -> None:
    """The panels, and below them the newest previews."""
    found = panels(history.curves)
    step, pictures = history.previews or (0, [])
    pictures = pictures[:PREVIEWS]
    with plots(path, len(found), columns=2, strip=len(pictures), from_zero=False) as axes:
        for axis, (title, lines) in zip(axes[: len(found)], found.items(), strict=True):
            for label, curve in lines.items():
                axis.plot(*zip(*curve, strict=True), label=label, marker="." if len(curve) < 30 else None)
            axis.set(title=title, xlabel="step")
            if title in ("loss", "EPE, pixels") and all(value > 0 for curve in lines.values() for _, value in curve):
                axis.set_yscale("log")
            axis.legend(fontsize="small")
        for axis, picture in zip(axes[len(found) :], pictures, strict=True):
            axis.imshow(read_image(picture))
            axis.set_title(f"step {step}: {picture.stem}", fontsize="small")
            axis.axis("off")


def as_page(history: History, picture: Path) -> str:
    """A page that needs no other file: the picture, and the last value of every number."""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    rows = "".join(_row(name, curve) for name, curve in sorted(history.curves.items()))
    title = html.escape(f"run {history.name}")
    return (
        f'<!doctype html><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px sans-serif;margin:2em} td,th{padding:.2em .8em;text-align:right}</style>"
        f'<h1>{title}</h1><img style="max-width:100%" src="data:image/png;base64,{encoded}">'
        f"<h2>last values</h2><table><tr><th>number</th><th>step</th><th>value</th><th>least</th><th>greatest</th></tr>{rows}</table>\n"
    )


def _row(name: str, curve: Curve) -> str:
    values: Iterable[float] = [value for _, value in curve]
    cells = [html.escape(name), str(curve[-1][0]), f"{curve[-1][1]:.5g}", f"{min(values):.5g}", f"{max(values):.5g}"]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
