"""Strict checks for every test: two CPU devices, silent rank promotion is an error."""

import os
import re

# Before JAX starts: two devices, so that whatever works on one only is seen.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "2"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile far longer than they compute. Processes that they start compile as a user's do.
jax.config.update("jax_disable_most_optimizations", True)


def pytest_xdist_auto_num_workers(config):
    """One worker more than cores: tests wait for the processes that they start."""
    return (os.cpu_count() or 1) + 1


def pytest_sessionfinish(session):
    """Fails the run for a skip whose reason $ALLOWED_SKIPS, a regular expression, does not match.

    Continuous integration sets the variable (to nothing where no skip is allowed); without it
    tests may be skipped freely.
    """
    allowed = os.environ.get("ALLOWED_SKIPS")
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if allowed is None or terminal is None or hasattr(session.config, "workerinput"):
        return
    reasons = {str(report.longrepr[2]) for report in terminal.stats.get("skipped", [])}
    forbidden = sorted(r for r in reasons if not (allowed and re.search(allowed, r)))
    if forbidden:
        terminal.write_line("\nSkips that are not allowed here:", red=True)
        for reason in forbidden:
            terminal.write_line(f"  {reason}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Tests compile the same small programs many times; the cache lives as long as the session.

    Workers share it.
    """
    own = tmp_path_factory.getbasetemp()
    directory = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compilation_cache"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)  # of processes that tests start
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return directory


@pytest.fixture(scope="session")
def cache(compilation_cache) -> str:
    """The flag that lets all launches share their compiled programs, with the tests' own too."""
    return f"--compilation_cache={compilation_cache}"
