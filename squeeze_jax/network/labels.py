"""Matches the class names of a data set to those of a network.

Names are compared as Unicode's NFC, then without regard to case. Where a name is a WordNet id and
words, "n01440764 tench", either of the two will do on the other side. Classes that an import
numbered have no names: they are matched by position, in the order of the set's classes, which for
folders is that of strings (0, 1, 10, 11, 2), as in torchvision's ImageFolder.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from squeeze_jax.errors import UserError, list_names

_WORDNET = re.compile(r"(n\d{8}) (.+)", re.DOTALL)


class LabelMap(NamedTuple):
    """The labels that a network has for the classes of a data set."""

    labels: tuple[int, ...]  # the network's, by the set's
    note: str = ""  # tells the user how they were matched, if not by name


def numbered_classes(count: int) -> tuple[str, ...]:
    """Returns what classes without names are called: "0", "1", "2" and so on."""
    return tuple(map(str, range(count)))


def has_class_names(metadata: Mapping[str, Any]) -> bool:
    """Returns whether the class names in a network's metadata are names.

    Metadata of older versions do not tell. There the numbers of a network that has a source, and so
    was imported, are taken for positions.
    """
    names = tuple(metadata["class_names"])
    is_numbered = bool(metadata.get("source")) and names == numbered_classes(len(names))
    return bool(metadata.get("has_class_names", not is_numbered))


def check_class_names(source: str, names: Sequence[str]) -> None:
    """Rejects the class names of a data set that cannot be written down or told apart.

    Args:
      source: what messages call the data set.
      names: by label.

    Raises:
      UserError: a name is not valid Unicode, as that of a folder whose name is not UTF-8; or two
        names are the same text.
    """
    if invalid := [name for name in names if not is_unicode(name)]:
        raise UserError(f"{source}: class name {invalid[0]!r} is not valid UTF-8; rename it")
    seen: dict[str, str] = {}
    for name in names:
        if (text := nfc(name)) in seen:
            raise UserError(
                f"{source}: two classes are called {text!r}, written as {ascii(seen[text])} and "
                f"{ascii(name)}; merge or rename them"
            )
        seen[text] = name


def is_unicode(name: str) -> bool:
    """Returns whether a name has no lone surrogate, and so can be printed and written as UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def match_labels(
    source: str,
    names: Sequence[str],
    network_names: Sequence[str],
    has_names: bool = True,
    by_position: bool | None = False,
) -> LabelMap:
    """Returns a network's label for each class of a data set.

    Args:
      source: what messages call the data set.
      names: the set's classes, by label; none at all where its labels are the network's.
      network_names: the network's classes, by label.
      has_names: whether the network's classes have names, or are numbered.
      by_position: whether to match by position in any case; None: no, and messages do not offer it.

    Raises:
      UserError: a class of the set is none of the network's, or could be several; or the classes
        are to be matched by position, and there are not equally many or their order is in doubt.
    """
    if not by_position and tuple(names) == tuple(network_names):
        return LabelMap(tuple(range(len(names))))
    if not names:
        note = f"{source}: its classes have no names, so its labels are taken for the network's"
        return LabelMap(tuple(range(len(network_names))), note)
    if by_position or not has_names:
        return _by_position(source, names, network_names, bool(by_position))
    return LabelMap(_by_name(source, names, network_names, by_position is not None))


def _by_position(
    source: str, names: Sequence[str], network_names: Sequence[str], is_asked: bool
) -> LabelMap:
    if len(names) != len(network_names):
        raise UserError(
            f"{source} has {len(names)} classes and the network {len(network_names)}: labels by "
            "position need equally many" + ("" if is_asked else ", and the network's have no names")
        )
    # PyTorch may have seen these names in the other form, and sorted them otherwise.
    is_sorted = list(names) == sorted(names)
    if not is_asked and is_sorted and _order(names, "NFC") != _order(names, "NFD"):
        raise UserError(
            f"the network's classes have no names, and the order of those of {source} depends on "
            f"how {list_names(_quoted(name for name in names if not name.isascii()))} is written "
            "in Unicode: --labels-by-position takes it as it is"
        )
    reason = "as asked for" if is_asked else "since the network's have no names"
    return LabelMap(
        tuple(range(len(names))),
        f"{source}: classes are matched by position, {reason}: outputs 0 to {len(names) - 1} are "
        f"{list_names(_quoted(names), 12)}",
    )


def _order(names: Sequence[str], form: Any) -> list[int]:
    """Returns the order of names in a Unicode normalization form."""
    return sorted(range(len(names)), key=lambda label: unicodedata.normalize(form, names[label]))


def _by_name(
    source: str, names: Sequence[str], network_names: Sequence[str], offers_position: bool
) -> tuple[int, ...]:
    exact, folded, aliases = {}, {}, {}  # text -> labels
    for label, name in enumerate(network_names):
        exact.setdefault(nfc(name), []).append(label)
        folded.setdefault(_fold(name), []).append(label)
        for alias in _parts(name):
            aliases.setdefault(alias, []).append(label)

    def find(name: str) -> list[int]:
        if found := exact.get(nfc(name)) or folded.get(_fold(name)):
            return found
        if not (parts := _parts(name)):
            return aliases.get(_fold(name), [])
        wordnet_id, words = parts  # other ids with the same words are other classes
        return aliases.get(wordnet_id) or folded.get(wordnet_id) or folded.get(words) or []

    found = [find(name) for name in names]
    if unknown := [name for name, labels in zip(names, found, strict=True) if not labels]:
        known = {label for labels in found for label in labels}
        others = [name for label, name in enumerate(network_names) if label not in known]
        raise UserError(
            f"{source} has classes that the network does not know: "
            f"{list_names(_quoted(unknown), 10)}; the network's others are "
            f"{list_names(_quoted(others), 10) or 'none'}: rename the classes"
            + (
                ", or match them in their order by --labels-by-position"
                if offers_position and len(names) == len(network_names)
                else ""
            )
        )
    takers: dict[int, str] = {}
    for name, labels in zip(names, found, strict=True):
        if len(labels) > 1:
            matches = _quoted(f"{label} {network_names[label]}" for label in labels)
            raise UserError(
                f"{source}: class {name!r} is several of the network's: {list_names(matches)}"
            )
        if (other := takers.setdefault(labels[0], name)) != name:
            raise UserError(
                f"{source}: classes {other!r} and {name!r} are both "
                f"{network_names[labels[0]]!r} of the network"
            )
    return tuple(labels[0] for labels in found)


def nfc(text: str) -> str:
    """Returns a text in Unicode's composed form: file systems differ in which they give back."""
    return unicodedata.normalize("NFC", text)


def _fold(text: str) -> str:
    """Returns a text for comparison without regard to case."""
    return nfc(nfc(text).casefold())


def _parts(name: str) -> tuple[str, ...]:
    """Returns the id and the words of "n01440764 tench", folded; () for any other name."""
    match = _WORDNET.fullmatch(name)
    return tuple(map(_fold, match.groups())) if match else ()


def _quoted(names: Any) -> list[str]:
    return [repr(name) for name in names]
