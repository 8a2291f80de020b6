"""The weights that a run begins with: random or pretrained, of a file (`--init_only`), or of a checkpoint; and what is said of them.

Optimizer, schedule and counters of a continued run are restored in `run`; initialising and resuming meet nowhere.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core import MODELS, build_model
from core.weight_export import read_checked
from core.weight_files import load_state
from train.checkpoint import Checkpoint
from train.config import RunConfig
from train.run_file import differences
from utils.errors import UserError, shorten

log = logging.getLogger("stereofoundry")

PARTS = {"vit": "backbone.monocular.vit.", "decoder": "backbone.monocular.decoder.", "cnn": "backbone.cnn."}
REST = "all else"
# Keys of the model section that change numbers or training, but no entry of the state dict.
SAME_ENTRIES = {
    "max_disp", "disparity_attention", "dropout", "train_iters", "valid_iters", "correlation_implementation", "batch_norm",
    "sync_batchnorm", "pretrained_backbone", "freeze_backbone", "slow_fast_gru", "initial_reach",
    "start_cost", "valid_scales", "valid_padding",
}  # fmt: skip
SAME_NUMBERS = SAME_ENTRIES - {
    "max_disp", "disparity_attention", "slow_fast_gru", "initial_reach", "start_cost", "valid_scales", "valid_padding",
}  # fmt: skip
LIMIT_WEIGHT = 1e3  # released and well-trained networks stay below 1e2; bf16 and fp16 lose what is added to larger ones
LIMIT_VARIANCE = 1e3  # of a batch norm's input: values around 30 and more, where networks that train well have some of order 1


class Start(NamedTuple):
    """A network with its first weights. config: with the model section as it is; carried: published entries without a place in it;
    sources: part -> where its weights come from."""

    network: nn.Module
    config: RunConfig
    carried: dict[str, Tensor]
    sources: dict[str, str]


def start_new(config: RunConfig) -> Start:
    """Random weights, and pretrained ones where the configuration names them."""
    network = build_model(config.model)
    loaded: dict[str, str] = dict(getattr(network, "loaded", {}))
    if frozen := getattr(network, "frozen_parts", None):  # by name from here on: the file that said so may be gone when the run goes on
        config = config.model_copy(update={"model": config.model | {"freeze_backbone": sorted(frozen)}})
    if "vit" not in loaded and config.model.get("feature_type") == "dinov2":
        log.warning(
            "the monocular branch starts from random weights and is trained; FoundationStereo starts from Depth Anything V2: "
            "--set model.pretrained_backbone=PATH (or timm), or from released weights with --checkpoint PATH --init_only"
        )
    return Start(network, config, {}, loaded)


def start_from_file(config: RunConfig, path: Path) -> Start:
    """The weights of any file that `core` reads, and nothing else of it. `freeze_backbone` null means as in the file's own training.

    Raises UserError for a file of another network, naming the keys that make it another.
    """
    weights = read_checked(path)
    model = _as_trained(config.model, weights.config)
    if config.model.get("freeze_backbone") is not None and "pretrained_backbone" in model:
        model["pretrained_backbone"] = "none"  # nothing of it is left: the file fills every part
    network = build_model(model, with_pretrained=False)
    _fill(network, weights.state, path, config.model, weights.config)
    numbers = sorted(differences(model, weights.config) - SAME_NUMBERS)
    if numbers:
        listed = ", ".join(f"{key}: {model.get(key)!r} / {weights.config.get(key)!r}" for key in numbers)
        log.warning("the configuration uses the weights of %s otherwise than the file says; configuration / file: %s", path.name, listed)
    kind = "published" if weights.published or weights.carried else "ours"
    sources = dict.fromkeys((*PARTS, REST), f"{path} ({kind})")
    return Start(network, config.model_copy(update={"model": model}), weights.carried, sources)


def start_from_checkpoint(config: RunConfig, start: Checkpoint) -> Start:
    """The weights of the step that a run goes on from; what was frozen then is frozen now."""
    path, content = start.path("model"), start.load("model")
    theirs = content.get("model_config")
    if isinstance(theirs, Mapping):
        named = config.model.get("freeze_backbone") is True and isinstance(theirs.get("freeze_backbone"), list)
        model = config.model | {"freeze_backbone": None} if named else config.model  # which parts true came to is in the checkpoint
        config = config.model_copy(update={"model": _as_trained(model, theirs)})
    network = build_model(config.model, with_pretrained=False)
    load_weights(network, content, path, config)
    return Start(network, config, dict(content.get("carried") or {}), dict.fromkeys((*PARTS, REST), str(path)))


def _as_trained(model: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The model section, with what the file says of freezing where the section leaves it open (null) or says the same."""
    keys = ("freeze_backbone", "pretrained_backbone")
    if not all(key in model and key in theirs for key in keys) or model["freeze_backbone"] not in (None, theirs["freeze_backbone"]):
        return dict(model)
    return model | {key: theirs[key] for key in keys}


def load_weights(network: nn.Module, content: dict[str, Any], path: Path, config: RunConfig) -> None:
    """Strictly, from a checkpoint of a run. Raises UserError that names what the two models differ in."""
    state, theirs = content.get("model"), content.get("model_config")
    if not isinstance(state, dict) or not isinstance(theirs, dict):
        raise UserError(f"{path}: holds no 'model' with its 'model_config'; expected a weights file <step>.pt of this project")
    _fill(network, state, path, config.model, theirs)


def _fill(network: nn.Module, state: Mapping[str, Tensor], path: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    try:
        load_state(network, state, str(path))
    except UserError as error:
        keys = sorted(differences(ours, theirs) - SAME_ENTRIES)
        differing = ", ".join(f"{key}: {ours.get(key)!r} / {theirs.get(key)!r}" for key in keys)
        raise UserError(f"{path}: weights of another model; configuration / file: {differing or 'the same keys'} ({error})") from None


# ---- what is said of them ---------------------------------------------------------------------------------------------------------------


def weights_table(network: nn.Module, sources: Mapping[str, str]) -> list[str]:
    """Per part of the network, the monocular branch told apart: where its weights come from, and whether they are trained."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, value in network.named_parameters():
        parts.setdefault(next((part for part, prefix in PARTS.items() if name.startswith(prefix)), REST), []).append(value)
    rows = []
    for part, values in parts.items():
        training = sum(value.requires_grad for value in values)
        how = {0: "frozen", len(values): "trained"}.get(training, f"{training} of {len(values)} parameters trained")
        name = f"monocular {part}" if part in ("vit", "decoder") else part
        rows.append(f"  {name:<18} {how:<8} from {sources.get(part, 'random weights')}")
    return rows


@torch.no_grad()
def unhealthy(network: nn.Module) -> list[str]:
    """Weights and running statistics beyond sane ranges, one line each: above `LIMIT_WEIGHT`, variances above `LIMIT_VARIANCE`, NaN.

    Training from such a state is where published reports of NaN begin: a batch norm that divides by an exploded variance passes nothing on,
    and its next update of the statistics on other data passes on too much.
    """
    found = []
    for name, value in network.state_dict().items():
        if not value.is_floating_point() or not value.numel():
            continue
        low, high = (float(end) for end in value.aminmax())  # NaN, which is in no range, where one value is
        least, most = (0, LIMIT_VARIANCE) if name.endswith("running_var") else (-LIMIT_WEIGHT, LIMIT_WEIGHT)
        if not (least <= low and high <= most):
            found.append(f"{name}: from {low:.3g} to {high:.3g}, sane is {least:g} to {most:g}")
    return found


def report_start(start: Start) -> None:
    """The table and the health of the weights, and crops that are narrower than the disparities, as log lines."""
    log.info("weights:\n%s", "\n".join(weights_table(start.network, start.sources)))
    sick = unhealthy(start.network)
    for line in sick[:10]:
        log.warning("health: %s", line)
    if len(sick) > 10:
        log.warning("health: %d more entries like these: %s", len(sick) - 10, shorten(line.partition(":")[0] for line in sick[10:]))
    for line in narrow_crops(start.config):
        log.warning(line)


def narrow_crops(config: RunConfig) -> list[str]:
    """A line for each crop that is narrower than the range of disparities.

    The smallest crop for a `max_disp` is as wide: of a narrower one, the far end of the cost volume meets no pixel of the right view, at no
    column, and learns nothing. Any multiple of 32 can be computed all the same, and the state dict does not depend on `max_disp`.
    """
    max_disp, multiple = config.model.get("max_disp"), MODELS[config.model["type"]].multiple
    if max_disp is None:
        return []
    return [
        f"data.image_sizes[{i}]: crops are {width} pixels wide, narrower than the disparity range: {100 * (1 - width / max_disp):.0f} % of "
        f"the volume's planes never meet a pixel; the smallest width for model.max_disp {max_disp} is {max_disp}; for these crops set "
        f"model.max_disp to {max(multiple, width // multiple * multiple)}"
        for i, (width, _) in enumerate(config.data.image_sizes)
        if width < max_disp
    ]


def check_crops(config: RunConfig, batch: int) -> None:
    """Raises UserError for a crop that leaves batch norm a single value per channel at the coarsest level."""
    multiple = MODELS[config.model["type"]].multiple
    for i, (width, height) in enumerate(config.data.image_sizes):
        if config.model.get("batch_norm") == "train" and batch * width * height == multiple**2:
            raise UserError(
                f"data.image_sizes[{i}]: one crop of {width} x {height} per forward pass leaves batch norm a single value per channel; use "
                "larger crops, --batch_size_forward 2, or model.batch_norm frozen_statistics"
            )
