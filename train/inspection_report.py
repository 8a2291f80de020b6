"""What an inspection found, for people: text for the terminal, one HTML page, a sheet of pictures. Nothing is judged here."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from train.inspection import Inspected
from train.sample import StereoSample
from utils.files import write_atomic
from utils.geometry import warp_right
from utils.images import write_image
from utils.visualize import colorize_disparity, tile

WIDEST = 480  # pixels of a picture on the sheet


def as_text(found: Sequence[Inspected], across: Sequence[str]) -> str:
    """A table of the data sets, then what should be mended. across: lines about more than one pair or set.

    Names of files that are not UTF-8 are spelt out.
    """
    rows = [("data set", "type", "pairs", "looked at", "sizes", "valid", "disparity px", "warp check"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    flags = all_flags(found, across)
    lines += ["", *(f"! {flag}" for flag in flags)] if flags else ["", "nothing to mend was found"]
    return _printable("\n".join(lines))


def all_flags(found: Sequence[Inspected], across: Sequence[str]) -> list[str]:
    """Everything a user should mend, a line each."""
    flags = [f"{item.name}: {flag}" for item in found for flag in item.flags]
    return [*flags, *across]


def _row(item: Inspected) -> tuple[str, ...]:
    pairs = item.readable
    if not pairs:
        return item.name, item.kind, str(item.total), str(len(item.examined)), "-", "-", "-", "-"
    sizes = sorted({pair.size for pair in pairs}, key=lambda size: size[0] * size[1])
    shown = " to ".join(f"{w}x{h}" for w, h in dict.fromkeys((sizes[0], sizes[-1])))
    valid = np.mean([pair.valid for pair in pairs])
    known = [pair for pair in pairs if not np.isnan(pair.lowest)]
    span = f"{min(pair.lowest for pair in known):.1f}-{max(pair.highest for pair in known):.1f}" if known else "-"
    reading, count = item.readings.most_common(1)[0]
    check = f"{reading} ({count} of {len(pairs)})"
    return (
        item.name,
        item.kind,
        str(item.total),
        str(len(item.examined)),
        shown,
        f"{100 * valid:.1f} %",
        span,
        check,
    )


def contact_sheet(samples: Sequence[StereoSample]) -> np.ndarray:
    """A row for each sample: left, right, disparity in colour, and how far the warped right image is from the left (dark is good)."""
    cells = []
    for sample in samples:
        warped, inside = warp_right(sample.right, sample.disparity)
        residual = np.abs(warped - sample.left).mean(axis=-1)
        residual = np.where(sample.valid & inside, np.minimum(4 * residual, 255), 0).astype(np.uint8)
        pictures = [
            sample.left,
            sample.right,
            colorize_disparity(sample.disparity, sample.valid),
            cv2.cvtColor(residual, cv2.COLOR_GRAY2RGB),
        ]
        scale = min(1.0, WIDEST / sample.left.shape[1])
        cells += [cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for picture in pictures]
    return tile(cells, columns=4)


def write_report(
    folder: Path, title: str, found: Sequence[Inspected], across: Sequence[str], sheets: Mapping[str, Sequence[StereoSample]]
) -> Path:
    """`report.html` with its pictures, and `report.json`, in `folder`. Returns the page's path."""
    parts = [f"<h1>{html.escape(title)}</h1>", _flag_list(all_flags(found, across))]
    for item in found:
        parts.append(f"<h2>{html.escape(item.name)}</h2><pre>{html.escape(as_text([item], []))}</pre>{_histogram(item)}")
        if sheets.get(item.name):
            picture = f"{item.name}.png"
            folder.mkdir(parents=True, exist_ok=True)
            write_image(folder / picture, contact_sheet(sheets[item.name]))
            caption = "as training gets them: left, right, disparity, |left - warped right| x 4 where known"
            parts.append(f'<p>{caption}</p><img src="{html.escape(picture)}" style="max-width:100%">')
    style = "body{font:15px sans-serif;margin:2em;max-width:90em} pre{background:#f4f4f4;padding:1em;overflow:auto} .flag{color:#a00}"
    page = f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>' + "\n".join(parts)
    write_atomic(folder / "report.html", _printable(page))
    write_atomic(folder / "report.json", json.dumps(_as_json(found, across), indent=2) + "\n")
    return folder / "report.html"


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _flag_list(flags: Sequence[str]) -> str:
    if not flags:
        return "<p>Nothing to mend was found.</p>"
    return "<ul>" + "".join(f'<li class="flag">{html.escape(flag)}</li>' for flag in flags) + "</ul>"


def _histogram(item: Inspected) -> str:
    """Disparity in bars; the last one holds all at or beyond the range."""
    shares = item.histogram
    top = max(float(shares.max(initial=0)), 1e-9)
    width, height = 18, 120
    bars = "".join(
        f'<rect x="{i * width}" y="{height - height * share / top:.1f}" width="{width - 2}" height="{height * share / top:.1f}" '
        f'fill="{"#a00" if i == len(shares) - 1 else "#36c"}"><title>from {item.edges[i]:.0f} px: {100 * share:.1f} %</title></rect>'
        for i, share in enumerate(shares)
    )
    text = f"disparity, 0 to {item.edges[-1]:.0f} px; the last bar is all beyond ({100 * shares[-1]:.1f} %)"
    return f'<p>{text}</p><svg width="{len(shares) * width}" height="{height}">{bars}</svg>'


def _as_json(found: Sequence[Inspected], across: Sequence[str]) -> dict:
    sets = [
        {
            "name": item.name,
            "type": item.kind,
            "pairs": item.total,
            "looked_at": len(item.examined),
            "readings": dict(item.readings),
            "histogram": {"edges_px": item.edges.tolist(), "shares": item.histogram.tolist()},
            "flags": item.flags,
            "samples": [
                {"key": pair.key, "problem": pair.problem}
                if pair.problem
                else {"key": pair.key, "size": pair.size, "valid": pair.valid, "beyond": pair.beyond, "reading": pair.reading}
                for pair in item.examined
            ],
        }
        for item in found
    ]
    return {"flags": all_flags(found, across), "data_sets": sets}
