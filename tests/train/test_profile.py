import gzip
import json

import jax
import pytest

from squeeze_jax.train import TrialConfig, compile_trial, train
from squeeze_jax.train.profile import PROFILE_FOLDER


@pytest.mark.slow
def test_the_trace_holds_the_steps_that_were_asked_for(config, digits, tmp_path):
    results = {}
    for profile in ("3:4", "2:9", "7:8", ""):  # of 5 steps
        config.train.update(steps=5, log_every=1, profile=profile)
        parsed = TrialConfig.parse(config)
        directory = tmp_path / profile.replace(":", "-")
        compiled = compile_trial(parsed, digits, jax.devices())
        result = train(compiled, parsed, digits, directory)
        results[profile] = {key: result[key] for key in ("top1", "loss", "steps")}
        traces = list((directory / PROFILE_FOLDER).rglob("perfetto_trace.json.gz"))
        steps = set()
        for path in traces:
            events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
            steps |= {
                int(event["args"]["step_num"])
                for event in events
                if "step_num" in event.get("args", {})
            }
            assert list(path.parent.glob("*.xplane.pb"))
        expected = {"3:4": {3, 4}, "2:9": {2, 3, 4, 5}}
        assert steps == expected.get(profile, set()) and bool(traces) == (profile in expected)
    assert len({str(result) for result in results.values()}) == 1
