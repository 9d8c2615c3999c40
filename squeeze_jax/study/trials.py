"""From a config, its sweep() and its derive() to named trials, each with a whole config."""

import copy
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Annotated, Any

from ml_collections import ConfigDict

from squeeze_jax.compress.config import CompressConfig
from squeeze_jax.config_parsing import Range, convert, parse_section
from squeeze_jax.errors import UserError
from squeeze_jax.study.config_errors import error_line, error_text
from squeeze_jax.study.schema import current_key
from squeeze_jax.train import TrialConfig

Overrides = Mapping[str, Any]
# A key of PARENTS that is "trial:NAME" names another trial of the same study, which comes first;
# each with what a trial does with its network.
INIT_FROM, TEACHER, TRIAL_PREFIX = "train.init_from", "train.teacher", "trial:"
EPOCHS = "train.epochs"
PARENTS = {INIT_FROM: "starts from", TEACHER: "learns from"}
Seeds = Annotated[int, Range(at_least=1, at_most=10**5)]  # a list of trials is made of them
MAX_NAME = 100  # bytes; file systems take 143 to 255
Limit = Annotated[float, Range(above=0)] | None


@dataclass(frozen=True)
class Trial:
    """One training of a study."""

    name: str  # "squeeze_ratio=0.25,seed=1": unique in the study, and a folder's name, see `_name`
    overrides: dict[str, Any]  # dotted key -> value
    config: ConfigDict
    data: int = 1  # the version of its data, see data_versions.py

    @cached_property
    def parsed(self) -> TrialConfig:
        """The part of the config that the trial trains by; raises UserError if it cannot."""
        return TrialConfig.parse(self.config)

    @cached_property
    def compress(self) -> CompressConfig:
        """The config's compress section; raises UserError for a wrong key or type."""
        return parse_section(CompressConfig, self.config["compress"], "compress")

    @property
    def parents(self) -> dict[str, str]:
        """The names of the trials whose final weights this one needs, by the key of PARENTS."""
        named = {key: _get(self.config, key) for key in PARENTS}
        return {
            key: value.removeprefix(TRIAL_PREFIX)
            for key, value in named.items()
            if value.startswith(TRIAL_PREFIX)
        }


def make_trials(
    config: ConfigDict,
    sweep: Callable[[ConfigDict], Iterable[Overrides]],
    set_by_user: Iterable[str] = (),
    derive: Callable[[ConfigDict], None] | None = None,
    existing: Collection[str] = (),
) -> list[Trial]:
    """Returns the trials that `sweep(config)` yields, in its order.

    `derive` may change neither a swept key, or a trial's name would be wrong, nor a key that the
    user set. It may compute a number from what the user set (`config.train.epochs *= 0.5`): this is
    seen by giving it another number there, which must change the result. And where the user named a
    checkpoint, a trial may start from another trial: the first of the chain starts from that.

    Args:
      config: the study's config.
      sweep: yields flat overrides, {"model.squeeze_ratio": 0.25, "seed": 1}.
      set_by_user: dotted keys set on the command line.
      derive: sets, in a trial's own config, what follows from its overrides: the learning rate of a
        stage, or a trial whose network it needs (train.init_from or train.teacher = "trial:NAME",
        an earlier trial).
      existing: names of trials that the workdir has; they stay as they are, however long.

    Raises:
      UserError: seeds or a budget out of range; a sweep of anything but dicts; an override of no
        key of the config; two trials of one name; a key both swept and set by the user; a key of
        either that `derive` changes, or one that it sets and the config lacks; a trial that needs
        the network of one that is not earlier; train.epochs set beside train.steps, which count.
    """
    if "seeds" in config:
        convert(config["seeds"], Seeds, "seeds")
    for key, limit in config.to_dict()["budget"].items():
        convert(limit, Limit, f"budget.{key}")
    set_by_user = list(set_by_user)
    yielded = _points(sweep(config))
    if not yielded:
        raise UserError("the sweep has no trials (is seeds 0?)")
    today = {key: current_key(key) for point in yielded for key in point}
    for old, new in today.items():
        if old != new:
            print(f"the sweep's {old} is called {new} now", file=sys.stderr)
    swept = list(dict.fromkeys(today.values()))
    if clash := [key for key in set_by_user if key in swept]:
        raise UserError(
            f"{', '.join(clash)} is swept by this config, so it cannot be set on the command line; "
            "edit sweep() or use configs/squeezenet.py"
        )
    short = short_names(today)  # by the keys as yielded: trials of older versions keep their names
    trials, names = [], {}
    for overrides in yielded:
        whole = ",".join(f"{short[key]}={_readable(value)}" for key, value in overrides.items())
        point = {today[key]: value for key, value in overrides.items()}
        name = names[whole] = whole if whole in existing else _name(whole, point)
        own = copy.deepcopy(config)
        for key, value in point.items():
            set_key(own, key, value)
        own = _derive(name, own, derive, swept, set_by_user) if derive else own
        if EPOCHS in {*swept, *set_by_user} and (steps := _get(own, "train.steps")):
            raise UserError(
                f"{EPOCHS}={_get(own, EPOCHS):g} has no effect while train.steps is {steps:,}; "
                "set --config.train.steps=0"
            )
        trial = Trial(name, point, own)
        for key, parent in trial.parents.items():
            set_key(own, key, TRIAL_PREFIX + names.get(parent, parent))
        trials.append(trial)
    counts = Counter(trial.name for trial in trials)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"the sweep yields {twice[0]} more than once")
    _check_parents(trials)
    return trials


def _points(yielded: Any) -> list[dict[str, Any]]:
    """Returns what a sweep yields, checked: config files are the user's code."""
    points = list(yielded) if isinstance(yielded, Iterable) else [yielded]
    for point in points:
        is_named = isinstance(point, Mapping) and all(isinstance(key, str) for key in point)
        if not is_named or not point:
            raise UserError(
                "sweep() yields a dict of dotted keys and their values for each trial, such as "
                f'{{"seed": 0}}; got {point!r}'
            )
    return [dict(point) for point in points]


def check_values(trials: Iterable[Trial]) -> None:
    """Rejects values of a wrong type or out of range, swept ones too, with a UserError."""
    for trial in trials:
        _ = trial.parsed, trial.compress


def _derive(
    name: str,
    config: ConfigDict,
    derive: Callable[[ConfigDict], None],
    swept: Iterable[str],
    set_by_user: Iterable[str],
) -> ConfigDict:
    """Returns a trial's config after `derive`; see `make_trials` for what that may do."""

    def after(config: ConfigDict) -> ConfigDict:
        config = copy.deepcopy(config).lock()  # setting a key that the config lacks is a mistake
        try:
            derive(config)
        except UserError:
            raise
        except Exception as e:
            line = error_line(e, Path(derive.__code__.co_filename))
            raise UserError(
                f"derive() fails for {name}: line {line}: {type(e).__name__}: {error_text(e)}"
            ) from e
        return config

    def depends_on(key: str, value: Any) -> bool:
        """Returns whether what `derive` makes of a number changes with it."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        other = copy.deepcopy(config)
        set_key(other, key, 2 * value + 1)
        return _get(after(other), key) != _get(derived, key)

    derived = after(config)
    for keys, where in ((swept, "swept"), (set_by_user, "set on the command line")):
        for key in keys:
            before, now = _get(config, key), _get(derived, key)
            starts_from_trial = key == INIT_FROM and now.startswith(TRIAL_PREFIX)
            follows = keys is set_by_user and (depends_on(key, before) or starts_from_trial)
            if now != before and not follows:
                raise UserError(
                    f"derive() makes {key} {now!r} for {name}, but it is {where}: {before!r}"
                )
    return derived


def _check_parents(trials: Iterable[Trial]) -> None:
    """Rejects a trial that needs the network of one that does not come before it."""
    names, earlier = {trial.name for trial in trials}, set()
    for trial in trials:
        for key, parent in trial.parents.items():
            if parent not in earlier:
                which = "which comes later" if parent in names else "no trial of this study"
                which = "itself" if parent == trial.name else which
                raise UserError(f"{trial.name} {PARENTS[key]} {TRIAL_PREFIX}{parent}: {which}")
        earlier.add(trial.name)


def design_key(overrides: Overrides, data: int = 1) -> str:
    """Returns what the seeds of a design point share, however its overrides were read.

    Args:
      overrides: of a trial, from its sweep or from study.json.
      data: the version of its data.
    """
    design = {key: value for key, value in overrides.items() if key != "seed"}
    return json.dumps([design, data], sort_keys=True)


def last_part(key: str) -> str:
    """Returns the last part of a dotted key: model.squeeze_ratio -> squeeze_ratio."""
    return key.rpartition(".")[2]


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Returns each dotted key's last part, or the whole key where two keys share that."""
    last = {key: last_part(key) for key in keys}
    count = Counter(last.values())
    return {key: name if count[name] == 1 else key for key, name in last.items()}


def _name(whole: str, point: Overrides) -> str:
    """Returns a trial's name; where it is longer than MAX_NAME, its start, a hash and the seed."""
    if len(whole.encode(errors="surrogatepass")) <= MAX_NAME:
        return whole
    digest = hashlib.sha256(repr(list(point.items())).encode(errors="surrogatepass")).hexdigest()
    end = f"~{digest[:10]}" + (f",seed={point['seed']}" if "seed" in point else "")
    start = whole.encode(errors="surrogatepass")[: MAX_NAME - len(end)]
    return start.decode(errors="ignore") + end


def _readable(value: Any) -> str:
    """Returns a value as part of a folder's name: (6, 6, 8, 1) -> 6-6-8-1."""
    text = "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return text.replace("/", "_").replace("\0", "_")


def _get(config: ConfigDict, key: str) -> Any:
    node: Any = config
    return reduce(lambda node, part: node[part], key.split("."), node)


def set_key(config: ConfigDict, key: str, value: Any) -> None:
    """Sets a dotted key.

    Raises:
      UserError: the config has no such key, or its value is of another type.
    """
    *parents, leaf = key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or leaf not in node:
        raise UserError(f"the sweep sets {key}, which is no key of the config")
    if isinstance(section := node[leaf], ConfigDict):
        raise UserError(
            f"the sweep sets {key}, which is a section of the config: set its keys, such as "
            f"{key}.{next(iter(section), 'KEY')}"
        )
    try:
        node[leaf] = value
    except TypeError as e:
        raise UserError(f"the sweep sets {key}={value!r}: {e}") from e
