"""What an update frees stays with the process while dictionaries learn, and goes back
afterwards."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

BLOCK = 256 * 2**20
HELD = f"""
import json
import psutil, torch
from components.dictionary.kernels.allocator import kept

def left():
    torch.ones({BLOCK // 4})
    return psutil.Process().memory_info().rss - before

before = psutil.Process().memory_info().rss
held = dict(usual=left())
with kept({BLOCK}):
    held |= dict(kept=left())
    with kept({2 * BLOCK}):
        held |= dict(by_both=left())
    held |= dict(by_one=left())
held |= dict(released=psutil.Process().memory_info().rss - before, usual_again=left())
with kept({BLOCK // 2}):
    held |= dict(larger=left())
print(json.dumps(held))
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library than glibc is left as it is"
)
def test_freed_blocks_are_kept_until_nobody_learns_any_more():
    ran = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    held = json.loads(ran.stdout)
    assert min(held["kept"], held["by_both"], held["by_one"]) > BLOCK - 2**20, held
    assert max(held["usual"], held["released"], held["usual_again"], held["larger"]) < BLOCK // 4, (
        held
    )
