"""A config and its `sweep()`, and `derive()` where it has one -> named trials, each a whole config."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

from ml_collections import ConfigDict

from squeeze_jax.errors import UserError
from squeeze_jax.train import TrialConfig

Overrides = Mapping[str, Any]
START, TRIAL = (
    "train.init_from",
    "trial:",
)  # train.init_from = "trial:NAME": another trial of the same study


@dataclass(frozen=True)
class Trial:
    """One training of a study."""

    name: str  # "squeeze_ratio=0.25,seed=1": unique in the study, and a folder's name
    overrides: dict[str, Any]  # dotted key -> value
    config: ConfigDict

    @cached_property
    def parsed(self) -> TrialConfig:
        """Returns the part of the config that the trial trains by; raises UserError if it cannot."""
        return TrialConfig.parse(self.config)

    @property
    def parent(self) -> str | None:
        """The name of the trial whose final weights this one starts from, if it starts from one."""
        start = self.config.train.init_from
        return start.removeprefix(TRIAL) if start.startswith(TRIAL) else None


def make_trials(
    config: ConfigDict,
    sweep: Callable[[ConfigDict], Iterable[Overrides]],
    set_by_user: Iterable[str] = (),
    derive: Callable[[ConfigDict], None] | None = None,
) -> list[Trial]:
    """The trials that `sweep(config)` yields, in its order.

    `derive` may not change a swept key, or a trial's name would lie, nor a key that the user set. It may compute a number from what
    the user set (`config.train.epochs *= 0.5`): whether it does is seen by giving it another number there, which must show in what
    comes out. And it may let a trial start from another one where the user named a checkpoint: the first of the chain starts from that.

    Args:
      config: the study's config.
      sweep: yields flat overrides, {"model.squeeze_ratio": 0.25, "seed": 1}.
      set_by_user: dotted keys set on the command line.
      derive: sets, in a trial's own config, what follows from its overrides: the learning rate of a stage, or the trial that it
        starts from (train.init_from = "trial:NAME", a trial that comes earlier).

    Raises:
      UserError: an override that names no key of the config, two trials of one name, a key both swept and set by the user; a key of
        either that `derive` changes, or one that it sets and the config has not; a trial that starts from none that comes earlier.
    """
    set_by_user = list(set_by_user)
    points = [dict(overrides) for overrides in sweep(config)]
    if not points:
        raise UserError("the sweep has no trials (is seeds 0?)")
    swept = list(dict.fromkeys(key for point in points for key in point))
    if clash := [key for key in set_by_user if key in swept]:
        raise UserError(
            f"{', '.join(clash)} is swept by this config, so it can't be set on the command line; edit sweep() or use configs/squeezenet.py"
        )
    short = short_names(swept)
    trials = []
    for point in points:
        trial = copy.deepcopy(config)
        for key, value in point.items():
            _set(trial, key, value)
        name = ",".join(f"{short[key]}={_readable(value)}" for key, value in point.items())
        trials.append(
            Trial(
                name, point, _derived(name, trial, derive, swept, set_by_user) if derive else trial
            )
        )
    if twice := [
        name for name, count in Counter(trial.name for trial in trials).items() if count > 1
    ]:
        raise UserError(f"the sweep yields {twice[0]} more than once")
    _check_parents(trials)
    return trials


def _derived(
    name: str,
    config: ConfigDict,
    derive: Callable[[ConfigDict], None],
    swept: Iterable[str],
    set_by_user: Iterable[str],
) -> ConfigDict:
    """A trial's config after `derive`; see `make_trials` for what that may do."""

    def after(config: ConfigDict) -> ConfigDict:
        config = copy.deepcopy(config).lock()  # a key that the config has not is a mistake
        try:
            derive(config)
        except (AttributeError, KeyError, TypeError) as e:
            raise UserError(
                f"derive() fails for {name}: {str(e).strip().partition(chr(10))[0]}"
            ) from e
        return config

    def computed(key: str, value: Any) -> bool:
        """Whether what `derive` makes of a number depends on it."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        other = copy.deepcopy(config)
        _set(other, key, 2 * value + 1)
        return _get(after(other), key) != _get(derived, key)

    derived = after(config)
    for keys, where in ((swept, "swept"), (set_by_user, "set on the command line")):
        for key in keys:
            before, now = _get(config, key), _get(derived, key)
            follows = keys is set_by_user and (
                computed(key, before) or (key == START and now.startswith(TRIAL))
            )
            if now != before and not follows:
                raise UserError(
                    f"derive() makes {key} {now!r} for {name}, but it is {where}: {before!r}"
                )
    return derived


def _check_parents(trials: Iterable[Trial]) -> None:
    """Raises UserError where a trial starts from one that does not come before it."""
    names, earlier = {trial.name for trial in trials}, set()
    for trial in trials:
        if trial.parent is not None and trial.parent not in earlier:
            which = (
                "itself"
                if trial.parent == trial.name
                else "which comes later"
                if trial.parent in names
                else "no trial of this study"
            )
            raise UserError(f"{trial.name} starts from {TRIAL}{trial.parent}: {which}")
        earlier.add(trial.name)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Dotted key -> its last component, or the whole key where two keys share that."""
    keys = list(keys)
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {
        key: key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 else key for key in keys
    }


def _readable(value: Any) -> str:
    """A value as part of a folder's name: (6, 6, 8, 1) -> 6-6-8-1."""
    text = "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    return text.replace("/", "_")


def _get(config: ConfigDict, key: str) -> Any:
    return reduce(lambda node, part: node[part], key.split("."), config)


def _set(config: ConfigDict, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or leaf not in node:
        raise UserError(f"the sweep sets {key}, which is no key of the config")
    try:
        node[leaf] = value
    except TypeError as e:
        raise UserError(f"the sweep sets {key}={value!r}: {e}") from e
