"""Files that break, as the command that trains tells of them."""

import json

import numpy as np

from tests.fsd_layout import write_pair
from tests.scripts.tiny import QUICK, TINY


def test_too_many_broken_samples_are_listed_and_end_the_run_with_one_line(tmp_path, train):
    rng = np.random.default_rng(0)
    for i in range(12):
        write_pair(tmp_path / "data", f"{i:04d}", *rng.integers(0, 256, (2, 70, 100, 3), np.uint8), rng.uniform(1, 9, (70, 100)))
        if i % 3:
            (tmp_path / "data" / "right" / "rgb" / f"{i:04d}.png").write_bytes(b"")
    data = TINY["data"] | {"datasets": [{"name": "own", "path": str(tmp_path / "data")}], "workers": 1, "max_broken": 2}
    (tmp_path / "run.json").write_text(json.dumps(TINY | {"data": data}))
    outcome = train("--config", tmp_path / "run.json", "--workspace", tmp_path / "run", *QUICK, "--num_iterations", 50)
    [error] = [line for line in outcome.lines if line.startswith("error: ")]
    assert outcome.code == 2 and "more than data.max_broken = 2: own/00" in error
    listed = [line for line in outcome.lines if line.startswith("  own/00") and line.endswith("the file is empty")]
    assert len(listed) >= 3 and len(set(listed)) == len(listed)
    assert "Traceback" not in outcome.output
