"""What is said of a study's file that is wrong, and of the studies that come with the package."""

import pytest

from squeeze_jax import cli
from squeeze_jax.study.config_files import find_config_file, list_studies

FILE = '''"""Does it work?"""
from squeeze_jax.configs import base


def get_config(preset="digits"):
    config = base.get_config(preset, "mine")
    {get_config}
    return config


def derive(config):
    {derive}


def sweep(config):
    {sweep}
    yield {{"seed": 0}}
'''


def launched(capsys, *arguments):
    """The exit code and the lines of a launch that trains nothing."""
    code = cli.main(["launch", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out + output.err


@pytest.mark.parametrize(
    ("part", "code", "words"),
    [
        ("get_config", "config.train.update((", "line 7: SyntaxError: '(' was never closed"),
        ("get_config", "config + 1", "line 7: TypeError: unsupported operand"),
        ("get_config", "config.modle.width = 3", "line 7: AttributeError: no key modle; did"),
        ("get_config", "import nowhere", "line 7: ModuleNotFoundError: No module named 'nowhere'"),
        (
            "derive",
            "config.model.widht = 3",
            "line 12: AttributeError: no key widht; did you mean width?",
        ),
        ("sweep", "1 / 0", "line 16: ZeroDivisionError: division by zero"),
        ("sweep", "{}['key']", "line 16: KeyError: key"),
        ("sweep", 'yield {"train": {"steps": 1}}', "train, which is a section of the config"),
        ("sweep", 'yield {"train.stpes": 1}', "the sweep sets train.stpes"),
    ],
)
def test_a_fault_in_a_file_is_one_line_that_names_it(tmp_path, capsys, part, code, words):
    path = tmp_path / "mine.py"
    parts = {"get_config": "pass", "derive": "pass", "sweep": "pass"}
    path.write_text(FILE.format(**parts | {part: code}))
    exit_code, text = launched(capsys, path, f"--workdir={tmp_path / 'run'}")
    assert exit_code == 2 and text.startswith("error: ") and text.count("\n") == 1, text
    assert words in text and "\\" not in text
    assert str(path) in text or part != "get_config"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sr_swep"], "no study and no config file is called sr_swep; did you mean sr_sweep?"),
        (["sr_sweep:digts"], "no preset 'digts'; did you mean digits?"),
        (["sr_sweep", "--config.train.epoch=1"], "no key train.epoch; did you mean train.epochs?"),
        (["sr_sweep", "--config.trian.epochs=1"], "no key trian.epochs; did you mean train.epochs"),
        (["sr_sweep", "--config.model.name=squeezenet_v11"], "; did you mean squeezenet_v1_1?"),
    ],
)
def test_a_mistyped_name_is_told_which_was_meant(tmp_path, capsys, arguments, words):
    code, text = launched(capsys, *arguments, f"--workdir={tmp_path}")
    assert code == 2 and text.count("\n") == 1 and words in text and '"' not in text


def test_flags_of_a_launch_are_spelt_as_elsewhere(capsys):
    code, text = launched(capsys, "--help")
    assert code == 0 and "--[no]dry-run" in text and "--join-timeout" in text
    assert "example: squeeze-jax launch sr_sweep:digits" in text
    code, text = launched(capsys, "--dry-run")  # known: it lists the studies
    assert code == 0 and text == launched(capsys, "--dry_run")[1]


def test_the_list_of_studies_has_their_questions_and_times(capsys):
    _, text = launched(capsys)
    for name, study in list_studies().items():
        assert f"{name} " in text and study.question in text and study.effort in text
        assert find_config_file(name).read_text().count(study.question) == 1
    assert "15 trials, 1 to 2 minutes on two CPU cores" in text
