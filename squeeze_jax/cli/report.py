"""The command that draws a study's report again."""

import argparse

from squeeze_jax.storage import as_path

NAME = "report"
HELP = "draw table, figure and report of a finished or partial study again"
GROUP = "study"
EXAMPLE = "squeeze-jax report runs/sr_sweep-digits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("workdir", type=as_path, help="of a study, such as runs/sr_sweep-digits")


def run(arguments: argparse.Namespace) -> int:
    """Draws the report, prints the files, and the verdict on the study's claim."""
    from squeeze_jax.report import page, tables, verdict
    from squeeze_jax.study.workdir import Workdir

    workdir = Workdir(arguments.workdir)
    written = [workdir.write_table(), *page.draw(workdir.path)]
    print("\n".join(map(str, written)))
    study, points = workdir.read_record(), tables.aggregate(workdir.read_trials())
    if found := verdict.judge(study, points):
        print(f"\n{verdict.verdict_sentence(found)}")
        if found.comparisons:
            print(tables.markdown(verdict.verdict_table(study.metric, found)), end="")
    return 0
