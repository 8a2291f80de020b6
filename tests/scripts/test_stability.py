"""Fine-tuning under conditions that make others' runs end in NaN: 2000 steps on a GPU, a few on a CPU.

`uv run pytest -m slow tests/scripts/test_stability.py --log-cli-level=INFO` shows the counts while it runs.
"""

import copy
import json
import logging

import pytest
import torch

from tests.core.golden import filled_state
from tests.scripts.tiny import TINY
from train.run_file import FOLDER
from utils.files import read_config

ON_GPU = torch.cuda.is_available()
STEPS = 2000 if ON_GPU else 300
SIZES = [[320, 256], [256, 192]] if ON_GPU else [[128, 96]]
ITERATIONS = 8 if ON_GPU else 1


@pytest.mark.slow
@pytest.mark.data
def test_hostile_data_in_bf16_leaves_every_weight_finite(shared, tmp_path, monkeypatch, caplog):
    """A filled ViT-S state with running variances of 1e4 in one layer, batch statistics, crops far narrower than `max_disp`; in every step
    a sample without a valid pixel, in every third an inf in the ground truth of the other, in every third a NaN, both marked as valid."""
    from train import loop
    from train.run import Options, build_run
    from train.run_file import load_config

    state = filled_state(shared / "reference", "vits", seed=3)
    for name in ("cnet.layer2.0.norm3.running_var", "cnet.layer2.0.downsample.1.running_var"):  # two names of one layer
        state[name].fill_(1e4)
    torch.save({"model": state}, tmp_path / "model_best_bp2.pth")
    recipe = copy.deepcopy(read_config(FOLDER / "finetune.json"))
    recipe["data"] |= {"datasets": TINY["data"]["datasets"], "image_sizes": SIZES, "workers": 0}
    recipe["model"] |= {"max_disp": 416, "train_iters": ITERATIONS, "batch_norm": "train"}
    recipe["validation"] = {"every": 0}
    recipe["lr_scheduler"] = {"type": "WarmupCosine", "params": {"warmup_steps": min(500, STEPS // 4)}}
    recipe["training"] |= {"max_skipped": 5}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    options = Options(
        tmp_path / "run", checkpoint=str(tmp_path / "model_best_bp2.pth"), init_only=True, batch_size_forward=2, num_iterations=STEPS,
        save_every=0, enable_mlflow=False, precision="bf16", enable_gradient_checkpointing=ON_GPU,
    )  # fmt: skip
    expected = 0
    with build_run(load_config(tmp_path / "recipe.json"), options) as run:
        batches = run.loader.batches

        def poisoned(step):
            for batch in batches(step):
                batch.valid[0] = False
                if step % 3:
                    batch.disparity[1, 8, 8], batch.valid[1, 8, 8] = float("inf" if step % 3 == 1 else "nan"), True
                yield batch

        monkeypatch.setattr(run.loader, "batches", poisoned)
        logging.getLogger("stereofoundry").propagate = True
        for step in range(STEPS):
            loop.update(run, step)
            expected += step % 3 == 2
            if step % 10 == 9 or step == STEPS - 1:
                for network in (run.network, run.ema.module):
                    sick = [name for name, value in network.state_dict().items() if not value.isfinite().all()]
                    assert not sick, f"step {step}: {sick}"
                logging.getLogger("stereofoundry").info("%d steps, %d skipped", step + 1, run.skipped)
        assert run.skipped == expected and run.ema.num_updates == STEPS - expected
    lines = [record.getMessage() for record in caplog.records if "skipped:" in record.getMessage()]
    assert len(lines) == run.skipped and all("not finite in made/" in line for line in lines)
