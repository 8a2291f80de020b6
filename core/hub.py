"""A network with its configuration as one thing that can be saved to a folder, pushed to the Hugging Face hub, and loaded from either.

The folder holds `model.safetensors` (a weight file of ours, readable by `core.load_model`) and `config.json`. Imported where it is used.
"""

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn

from core.output import StereoOutput
from core.weight_export import read_checked, write_weights
from core.weight_files import Weights, load_state
from utils.errors import UserError

FILE = "model.safetensors"


class StereoModel(nn.Module, PyTorchModelHubMixin, library_name="stereofoundry", tags=["stereo-matching", "depth-estimation"]):
    """`StereoModel.from_pretrained(folder or "owner/name")`, `model.infer(left, right)`, `model.push_to_hub("owner/name")`.

    network: the network itself; config: the "model" section that describes it; carried: entries of the published file that it began from.
    """

    def __init__(self, weights: Weights) -> None:
        from core import build_model

        super().__init__()
        self.config, self.carried = weights.config, weights.carried
        self.network = build_model(weights.config, with_pretrained=False)
        load_state(self.network, weights.state, "weights")
        self.eval()

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """From any weight file that `core` reads."""
        return cls(read_checked(path))

    def forward(self, left: Tensor, right: Tensor, iters: int | None = None) -> StereoOutput:
        """As the network's own `forward`: (B, 3, H, W) in [0, 1], twice."""
        return self.network(left, right, iters=iters)

    def infer(self, left: np.ndarray, right: np.ndarray, **options: Any) -> np.ndarray:
        """As the network's own `infer`: uint8 (H, W, 3) RGB, twice, to float32 (H, W) pixels."""
        return self.network.infer(left, right, **options)  # pyright: ignore[reportCallIssue]

    def _save_pretrained(self, save_directory: Path) -> None:
        """Called by `save_pretrained` and `push_to_hub`. What is there is replaced, as everywhere on the hub."""
        (save_directory / FILE).unlink(missing_ok=True)
        write_weights(save_directory / FILE, Weights(self.config, self.network.state_dict(), self.carried, published=False), "ours")
        (save_directory / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **options: Any) -> Self:  # pyright: ignore
        """Called by `from_pretrained`. strict is always meant."""
        if Path(model_id).is_dir():
            path = Path(model_id) / FILE
        else:
            known = ("revision", "cache_dir", "force_download", "token", "local_files_only")
            try:
                path = Path(hf_hub_download(model_id, FILE, **{key: options[key] for key in known if key in options}))
            except Exception as error:  # the hub's client raises a dozen kinds
                reason = " ".join(str(error).split())[:160]
                raise UserError(
                    f"{model_id}: neither a folder nor a model on the hub that can be fetched ({type(error).__name__}: {reason})"
                ) from None
        return cls.from_file(path).to(torch.device(map_location))


def upload(folder: Path, name: str) -> str:
    """Push an exported folder, whatever else it holds (a graph, a card), to the hub; the address of the commit."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        return str(api.upload_folder(repo_id=api.create_repo(name, exist_ok=True).repo_id, folder_path=folder))
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"--push_to_hub {name}: not uploaded ({type(error).__name__}: {reason}); the folder {folder} is complete") from None
