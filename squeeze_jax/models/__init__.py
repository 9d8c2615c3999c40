"""Creates networks by name: `create("squeezenet_v1_1", rngs=nnx.Rngs(0), squeeze_ratio=0.25)`.

Each family of networks is declared in a file of its own and listed in `FAMILIES`. Every module maps
normalised NHWC images to float32 logits: `model(x, train=False, key=None)`.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
from flax import nnx

from squeeze_jax.config_parsing import convert
from squeeze_jax.errors import UserError, suggest
from squeeze_jax.models import alexnet, darknet, mobilenet, squeezenet, squeezenext, vgg
from squeeze_jax.models.family import Family, Variant

__all__ = [
    "FAMILIES",
    "Family",
    "Variant",
    "create",
    "create_abstract",
    "find",
    "model_names",
    "model_options",
    "takes",
]

FAMILIES: dict[str, Family] = {
    "squeezenet": squeezenet.FAMILY,
    "squeezenext": squeezenext.FAMILY,
    "alexnet": alexnet.FAMILY,
    "vgg": vgg.FAMILY,
    "mobilenet": mobilenet.FAMILY,
    "darknet": darknet.FAMILY,
}


def model_names() -> list[str]:
    """Returns the names that `create` takes, family by family."""
    return [name for family in FAMILIES.values() for name in family.variants]


def find(name: str) -> tuple[Family, Variant]:
    """Returns the variant `name` and its family.

    Raises:
      UserError: no family has a variant of that name.
    """
    for family in FAMILIES.values():
        if name in family.variants:
            return family, family.variants[name]
    raise UserError(f"no model {name!r}; {suggest(name, model_names())}")


def takes(name: str, option: str) -> bool:
    """Returns whether the model `name` has an option.

    Raises:
      UserError: no family has a variant of that name.
    """
    return option in find(name)[0].parameters()


def model_options() -> dict[str, type]:
    """Returns every option of any family with its type: int, float, str, bool or tuple.

    Raises:
      TypeError: two families give an option different types.
    """
    types: dict[str, type] = {}
    for name, family in FAMILIES.items():
        for option, kind in family.options().items():
            if types.setdefault(option, kind) is not kind:
                raise TypeError(
                    f"model family {name!r} has option {option} of type {kind.__name__}, "
                    f"another family has it of type {types[option].__name__}"
                )
    return types


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Rejects, with a UserError, an option that the model `name` has not, or an unknown model.

    None counts as not given.
    """
    known = find(name)[0].parameters()
    given = {option for option, value in options.items() if value is not None}
    if unknown := sorted(given - set(known)):
        raise UserError(f"{name} has no option {unknown[0]}; {suggest(unknown[0], known)}")


def create(name: str, /, *, rngs: nnx.Rngs, **options) -> nnx.Module:
    """Returns the model `name`, with freshly drawn weights.

    Args:
      name: one of `model_names()`.
      rngs: source of the `params` keys.
      **options: arguments of the family's constructor, which replace the variant's own; None
        counts as not given.

    Raises:
      UserError: there is no such model or option, or the value of an option is out of range.
    """
    check_options(name, options)
    family, variant = find(name)
    options = {key: value for key, value in options.items() if value is not None}
    for option, annotation in family.annotations().items():
        if option in options:
            options[option] = convert(options[option], annotation, f"model.{option}")
    build = cast(Callable[..., nnx.Module], family.module)
    try:
        return build(rngs=rngs, **{**variant.options, **options})
    except ValueError as e:
        raise UserError(f"{name}: {e}") from e


def create_abstract(name: str, /, **options) -> nnx.Module:
    """Returns the model `name` with shapes in place of weights: nothing is drawn or allocated.

    Args:
      name: see `create`.
      **options: likewise.

    Raises:
      UserError: see `create`.
    """
    check_options(name, options)  # rngs is none
    return nnx.eval_shape(lambda: create(name, rngs=_ConstantKeys(0), **options))


class _ConstantKeys(nnx.Rngs):
    """Gives every layer the same key, for shapes alone.

    nnx counts the keys that it gives in a variable, and each write to one that is traced takes
    milliseconds.
    """

    def params(self) -> jax.Array:
        return self.default.key[...]
