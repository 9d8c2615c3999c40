"""Every command in the README and the guides is one that a newcomer can paste."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeeze_jax import cli
from squeeze_jax.cli import launch

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:squeeze-jax|python launch\.py)(?: +[^`\s#&|][^`\n#&|]*)?")
# Parts left to the reader, and the config file that docs/studies.md shows how to write.
INCOMPLETE = re.compile(r"…|\.\.\.|\[|width_sweep|COMMAND")
# What runs in seconds and needs no download, of the first and the second half hour.
QUICK = (
    "squeeze-jax predict cifar10-48k photo.jpg",
    "squeeze-jax summary squeezenet_v1_0",
    "squeeze-jax summary --list",
    "squeeze-jax summary squeezenet_v1_0 --set squeeze_ratio=0.5",
    "squeeze-jax summary squeezenet_v1_1 --input-size 160x120 --set in_channels=1",
    "squeeze-jax hardware squeezenext_23_v5 --array 16x16 --buffer-kb 128 --roofline roof.svg",
    "squeeze-jax data my_images",
    "squeeze-jax prepare prepared --data-dir my_images",
)


def recipes():
    """The commands by document, without comments, continued lines joined, placeholders left out."""
    for path in GUIDES:
        text = path.read_text().replace("\\\n", " ")
        code = [*re.findall(r"```(?:sh|bash)?\n(.*?)```", text, re.DOTALL)]
        code += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in "\n".join(code).splitlines():
            if (found := COMMAND.search(line)) and not INCOMPLETE.search(line):
                yield path.name, " ".join(found[0].strip().rstrip("'").split())


RECIPES = sorted(set(recipes()))


def arguments(command):
    """What follows squeeze-jax; a launch by launch.py is one of that."""
    words = shlex.split(command)
    return words[1:] if words[0] == "squeeze-jax" else ["launch", *words[2:]]


def test_recipes_are_found():
    assert len(RECIPES) > 50
    assert {"README.md", "studies.md", "deploy.md", "data.md"} <= {name for name, _ in RECIPES}
    assert set(QUICK) <= {command for _, command in RECIPES}


@pytest.mark.parametrize(("document", "command"), RECIPES)
def test_flags_and_keys_of_every_recipe_exist(document, command, monkeypatch, capsys):
    """Parsed as when it is run, the overrides of the config among them; nothing is done."""
    monkeypatch.setattr(launch, "_run", lambda values, config, argv: 0)
    for module in cli.COMMANDS.values():
        monkeypatch.setattr(module, "run", lambda arguments: 0)
    given = arguments(command)
    if given[1:] == [] and given[:1] != ["launch"]:  # the name of a command, in a sentence
        assert given == [] or given[0] in (*cli.COMMANDS, "--version")
        return
    try:
        code = cli.main(given)
    except SystemExit as ended:
        code = ended.code
    output = capsys.readouterr()
    assert code == 0, output.err
    assert " is called " not in output.err  # no old names


@pytest.mark.parametrize("command", QUICK)
def test_quick_recipes_run_in_an_empty_folder(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("photo.jpg", *(f"my_images/{kind}/{i}.jpg" for kind in "ab" for i in range(5))):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(name)
    assert cli.main(arguments(command)) == 0
    output = capsys.readouterr()
    assert output.out and "Traceback" not in output.err
