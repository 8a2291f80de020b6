"""Records of measurements for people and for other programs: JSON, tables, CSV, plots, one HTML page. Nothing is measured here."""

import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.measure import Record
from train.plotting import plots
from train.predictors import Predict
from train.preview import preview, safe_name
from train.scores import AUSE
from train.suites import Task
from utils.files import write_atomic
from utils.images import write_image

MOST_SCENES = 60  # on the terminal; the files hold all


def as_table(record: Record) -> str:
    """Scenes (or data sets, where there are too many) and the mean, one line each; then the means by mask, where there are several."""
    rows = record.scenes if len(record.scenes) <= MOST_SCENES else record.datasets
    metrics = [label for label in record.mean if "/" not in label]
    body = list(rows.items())
    if len(record.datasets) > 1 and rows is not record.datasets:
        body += [(f"mean of {name}", values) for name, values in record.datasets.items()]
    lines = [["", *metrics], *([name, *_numbers(values, metrics)] for name, values in [*body, ("mean", record.mean)])]
    text = _columns(lines)
    if masks := list(dict.fromkeys(label.partition("/")[0] for label in record.mean if "/" in label)):
        masks_of_sets = {task.protocol.mask for task in record.tasks}
        own = masks_of_sets.pop() if len(masks_of_sets) == 1 else "of the protocol"
        by_mask = [[own, *_numbers(record.mean, metrics)]]
        by_mask += [[mask, *_numbers(record.mean, [f"{mask}/{metric}" for metric in metrics])] for mask in masks]
        text += "\n\n" + _columns([["mean by mask", *metrics], *by_mask])
    return text + f"\n\n{_number(record.seconds)} s and {_number(record.memory_gib)} GiB per pair"


def _numbers(values: Mapping[str, float], labels: Sequence[str]) -> list[str]:
    return [_number(values.get(label)) for label in labels]


def comparison(records: Sequence[Record], keys: Sequence[str]) -> list[list[str]]:
    """A header and a row for each record: what it was (`keys` of `about`), its mean, and what a pair cost."""
    labels = list(dict.fromkeys(label for record in records for label in record.mean if "/" not in label))
    rows = [[*keys, *labels, "s per pair", "GiB"]]
    for record in records:
        settings = [str(record.about.get(key)) if record.about.get(key) is not None else "-" for key in keys]
        rows.append([*settings, *_numbers(record.mean, labels), _number(record.seconds), _number(record.memory_gib)])
    return rows


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns."""
    return _columns(rows)


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    """The same for other programs."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def as_json(records: Sequence[Record]) -> str:
    """One record as it is; several under "runs", with "runs[0]" being what a single one would have been."""
    content: Any = records[0].dump() if len(records) == 1 else {"runs": [record.dump() for record in records]}
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_results(path: Path, records: Sequence[Record], rows: Sequence[Sequence[str]]) -> None:
    """The JSON file, and the comparison as CSV beside it."""
    write_atomic(path, as_json(records))
    write_atomic(path.with_suffix(".csv"), as_csv(rows))


def plot_sparsification(path: Path, records: Sequence[Record], keys: Sequence[str]) -> None:
    """Of every record with a confidence the sparsification curve, and the best there could be as dashes."""
    with plots(path, 1) as (axis,):
        for record in records:
            if (curves := record.sparsification) is None:
                continue
            removed = np.arange(len(curves["by_error"])) * 100 / len(curves["by_error"])
            (line,) = axis.plot(removed, curves["by_confidence"], label=f"{called(record, keys)}: AUSE {_number(record.mean[AUSE])}")
            axis.plot(removed, curves["by_error"], "--", color=line.get_color())
        axis.set(xlabel="pixels taken away, %", ylabel="EPE of the rest / EPE of all", xlim=(0, 100))
        axis.legend(fontsize="small", title="dashed: in the order of the true errors")


def plot_sweep(path: Path, records: Sequence[Record], labels: Sequence[str]) -> None:
    """Each number against refinement iterations, a line for each count of cascades and each model; dashed where none were asked."""
    lines: dict[str, list[Record]] = {}
    for record in records:
        lines.setdefault(f"{record.about['model']}, cascades {record.about['cascades']}", []).append(record)
    shown = [label for label in labels if any(math.isfinite(record.mean.get(label, math.nan)) for record in records)]
    with plots(path, len(shown) + 1) as axes:
        for axis, label in zip(axes, [*shown, "s per pair"], strict=True):
            for name, points in lines.items():
                values = [point.seconds if label == "s per pair" else point.mean.get(label, math.nan) for point in points]
                iterations = [point.about["iterations"] for point in points]
                if None in iterations:
                    axis.axhline(values[0], linestyle="--", color=axis.plot([], [], "--", label=name)[0].get_color())
                else:
                    axis.plot(iterations, values, marker="o", label=name)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set(xlabel="iterations", ylabel=label)
        axes[0].legend(fontsize="small")


def write_report(
    folder: Path, title: str, records: Sequence[Record], keys: Sequence[str], pictures: Mapping[str, Sequence[tuple[Task, Predict]]]
) -> Path:
    """`report.html` in `folder`: the comparison, every record's scenes, and error maps. Returns its path.

    pictures: heading -> images to be drawn, each with its predictor; they are predicted once more.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _html_table(comparison(records, keys))]
    if (folder / "sweep.png").exists() and len(records) > 1:
        parts.append('<img src="sweep.png">')
    if any(record.sparsification for record in records):
        plot_sparsification(folder / "sparsification.png", records, keys)
        parts.append("<h2>Does the network know where it errs</h2>")
        parts.append('<p>the error of the rest when the least confident pixels are taken away</p><img src="sparsification.png">')
    for record in records:
        parts.append(f"<h2>{html.escape(called(record, keys))}</h2><pre>{html.escape(as_table(record))}</pre>")
        parts.append(
            f"<details><summary>protocol</summary><pre>{html.escape(json.dumps(record.dump()['protocol'], indent=2))}</pre></details>"
        )
    for heading, items in pictures.items():
        parts.append(f"<h2>{html.escape(heading)}</h2><p>left, right, numbers; ground truth, prediction, error</p>")
        for task, predict in items:
            sample = task.load()
            name = f"{safe_name(heading)}_{safe_name(task.name)}.png"
            folder.mkdir(parents=True, exist_ok=True)
            write_image(folder / name, preview(task.source.name, sample, predict(sample).disparity))
            parts.append(f'<p>{html.escape(task.name)}</p><img src="{html.escape(name)}" style="max-width:100%">')
    style = (
        "body{font:15px sans-serif;margin:2em} td,th{padding:.2em .8em;text-align:right} pre{background:#f4f4f4;padding:1em;overflow:auto}"
    )
    head = f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
    write_atomic(folder / "report.html", head + "\n".join(parts))
    return folder / "report.html"


def called(record: Record, keys: Sequence[str]) -> str:
    """What a record is called in headings."""
    settings = [f"{key} {record.about[key]}" for key in keys if key != "model" and record.about.get(key) is not None]
    return ", ".join([str(record.about["model"]), *settings])


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    return f"<table><tr>{cells}</tr>{lines}</table>"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    if 0 < abs(value) < 0.001:  # of poses, and what a small network needs
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 10 or not np.isfinite(value) else f"{value:.2f}"
