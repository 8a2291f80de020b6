"""Log lines that nobody takes."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SAYS = """
import logging
from train.console import configure_logging
configure_logging()
for number in range(200):
    logging.getLogger("stereofoundry").info("line %d %s", number, "x" * 100)
open("end", "w").close()
"""


@pytest.mark.parametrize("where", ["closed pipe", "full disk"])
def test_lines_that_are_lost_end_nothing(tmp_path, where):
    if where == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    command, surroundings = [sys.executable, "-c", SAYS], {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, env=surroundings)
    os.close(writing)
    assert (found.returncode, found.stderr) == (0, b"") and (tmp_path / "end").exists()
