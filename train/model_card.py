"""The text that goes with published weights: what they are, what they were trained on, how good they are, whose licence they carry."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError

NVIDIA = "the released FoundationStereo weights: NVIDIA's licence, research and evaluation only"
BACKBONES = (
    ("depth_anything_v2_vits", "Depth Anything V2 Small: Apache 2.0"),
    ("depth_anything_v2", "Depth Anything V2 Base or Large: CC BY-NC 4.0"),
    ("timm", "DINOv2 and the CNN's ImageNet weights from timm: Apache 2.0"),
)


def model_card(model: Mapping[str, Any], run: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None, origin: str) -> str:
    """Markdown with the hub's header.

    model: the network's configuration. run: the run's, None where the file does not hold it. metrics: a file of scripts/evaluate.py.
    origin: whose weights these began from, see `find_origin`.
    """
    lines = [
        "---", "library_name: stereofoundry", "pipeline_tag: depth-estimation", "tags: [stereo-matching, depth-estimation]", "---", "",
        f"# {model['type']}", "", "A stereo matching network: a rectified pair in, disparity of the left view in pixels out.", "",
        "```python", "from core import load_model", "", 'model = load_model("model.safetensors")',
        "disparity = model.infer(left, right)  # uint8 (H, W, 3) RGB, twice", "```", "",
        "## Licence", "", f"These weights began from {origin}.", "",
        "## Network", "", *(f"- {key}: {value}" for key, value in model.items()), "",
    ]  # fmt: skip
    lines += ["## Training", "", *(_training(run) if run else ["The file does not say what it was trained on."]), ""]
    lines += ["## Metrics", "", *(_metrics(metrics) if metrics else ["None were given."]), ""]
    return "\n".join(lines)


def find_origin(model: Mapping[str, Any], carried: bool) -> str:
    """Whose weights a network began from. carried: it holds entries of a published file."""
    if carried:
        return NVIDIA
    source = str(model.get("pretrained_backbone", "none"))
    if source == "none":
        return "random numbers; nobody else's licence is on them"
    return next((text for name, text in BACKBONES if name in source.lower()), f"{source}, whose licence goes with it")


def read_metrics_file(path: Path) -> dict[str, Any]:
    """A result of scripts/evaluate.py. Raises UserError for another file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--metrics {path}: cannot be read ({error}); expected a file of scripts/evaluate.py --output") from None
    if not isinstance(content, dict) or not {"mean", "protocol", "suite"} <= content.keys():
        raise UserError(
            f"--metrics {path}: holds no mean, protocol and suite; expected a file of scripts/evaluate.py --output, of one model"
        )
    return content


def _training(run: Mapping[str, Any]) -> list[str]:
    sets = [f"- {entry['name']} ({entry['type']}), share {entry.get('steps') or entry['weight']:g}" for entry in run["data"]["datasets"]]
    losses = [f"- {label}/{name}: {term['function']}" for label, terms in run["loss"].items() for name, term in terms.items()]
    crops = ", ".join(f"{width} x {height}" for width, height in run["data"]["image_sizes"])
    return ["Data:", "", *sets, "", f"Crops (width x height): {crops}. Losses:", "", *losses]


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    rows = [f"| {name} | {value:.4g} |" for name, value in metrics["mean"].items() if value is not None and "/" not in name]
    protocol = json.dumps(metrics["protocol"])
    return [f"Suite `{metrics['suite']}`, protocol `{protocol}`:", "", "| metric | mean |", "| --- | --- |", *rows]
