"""Times a training step with a teacher: asked at each step, remembered, and without.

The net is the CIFAR net with BatchNorm, and the teacher the wide net of configs/distill.py, with
random weights. `train.teacher_views` is 1, and the two batches of the set have been seen once.
"""

import contextlib
import tempfile
from pathlib import Path

from experiments.benchmarks import interleaved
from experiments.benchmarks.training import SETTINGS, config_of, own_step
from squeeze_jax.config_parsing import plain_section
from squeeze_jax.configs import distill
from squeeze_jax.network import Network, Preprocessing, build_model, split_model
from squeeze_jax.train import TrialConfig
from squeeze_jax.train.checkpoint import save_network

PACKAGES = ()
TITLE = "CIFAR net with BatchNorm, batch 128"
ROUNDS, STEPS = 6, 4


def rows() -> list[interleaved.Row]:
    """Measures the three."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        teacher = Path(folder) / "teacher"
        save_teacher(teacher)
        recipes = {
            "teacher_views": dict(teacher=str(teacher), teacher_views=1),
            "asked at each step": dict(teacher=str(teacher)),
            "no teacher": {},
        }
        runs = {
            name: stack.enter_context(interleaved.in_process(step, recipe))
            for name, recipe in recipes.items()
        }
        return interleaved.compare(
            f"{TITLE}, taught", runs, ROUNDS, images=SETTINGS[TITLE].batch_size * STEPS
        )


def step(recipe: dict):
    """Returns `own_step` of a recipe."""
    return own_step(TITLE, STEPS, **recipe)


def save_teacher(path: Path) -> None:
    """Writes the wide net with random weights, for images as the net's."""
    config = config_of(SETTINGS[TITLE])
    config.model.update(distill.get_config("cifar10_modern").teacher)
    trial = TrialConfig.parse(config)
    model = trial.model.to_mapping()
    _, params, stats = split_model(build_model(model, SETTINGS[TITLE].classes))
    preprocessing = Preprocessing.from_metadata(plain_section(trial.data))
    names = tuple(map(str, range(SETTINGS[TITLE].classes)))
    save_network(Network(model, names, preprocessing, params, stats), path)
