"""SIGTERM and Ctrl-C end a process in one line, wherever they strike."""

import signal
import subprocess
import sys
import time

import pytest

from tests.launching import DEADLINE, ROOT, environment


def stopped(program: list[str], signum: signal.Signals, wait: float = 0.0) -> tuple:
    """Signals a process so many seconds after its first line; its exit code and output."""
    process = subprocess.Popen(
        program,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signum)
    out, err = process.communicate(timeout=DEADLINE)
    return process.returncode, out, err


def script(text: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        "import time\nfrom squeeze_jax.signals import exit_on_signals, held_signals\n"
        f"exit_on_signals('; again')\n{text}",
    ]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_line_and_the_code(signum):
    """Also from a destructor, where an exception would be lost."""
    text = f"""
class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep({DEADLINE})
slow = Slow()
del slow
"""
    assert stopped(script(text), signum) == (
        128 + signum,
        "",
        f"stopped by {signum.name}; again\n",
    )


def test_what_replaces_a_file_ends_first():
    text = """
with held_signals():
    with held_signals():
        print("ready", flush=True)
        time.sleep(0.5)
    print("whole", flush=True)
print("not reached", flush=True)
"""
    code, out, err = stopped(script(text), signal.SIGTERM)
    assert (code, out, err) == (143, "whole\n", "stopped by SIGTERM; again\n")


def test_a_launch_that_is_still_importing(tmp_path):
    """An exception in the import of an extension module is a crash or another error."""
    arguments = ["launch", "squeezenet", f"--workdir={tmp_path / 'work'}"]
    text = f"from squeeze_jax.__main__ import run\nprint(flush=True)\nrun({arguments})"
    code, _, err = stopped([sys.executable, "-c", text], signal.SIGINT, wait=0.3)
    assert (code, err) == (130, "stopped by SIGINT; run the same command again to continue\n")


@pytest.mark.slow
def test_a_process_without_standard_streams():
    """As `>&-` starts one: files do not get their numbers, nor what is printed."""
    program = "from squeeze_jax.__main__ import run; run(['launch'])"
    for closed in ("<&- >&- 2>&-", ">&-"):
        shell = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program]
        assert subprocess.run(shell, cwd=ROOT, env=environment()).returncode == 0
