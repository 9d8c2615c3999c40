"""Freed memory is used again."""

import platform
import subprocess
import sys

import pytest

# Prints how many pages of 100 MB the system hands out the second time.
SCRIPT = """
import resource, numpy as np
{setup}
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(25_000_000, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEP = "from squeeze_jax.allocator import keep_freed_memory; keep_freed_memory()"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_memory_is_used_again():
    def faults(setup):
        command = [sys.executable, "-c", SCRIPT.format(setup=setup)]
        return int(subprocess.check_output(command, text=True))

    assert faults(KEEP) < 10
    assert faults("") > 40  # huge pages of 2 MB at the least
