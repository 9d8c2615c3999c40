"""Classes of a data set -> labels of a network: by name, by position, or refused."""

import unicodedata

import pytest

from squeeze_jax.errors import UserError
from squeeze_jax.network import imagenet
from squeeze_jax.network.labels import check_class_names, has_class_names, match_labels

NFC = unicodedata.normalize("NFC", "crème")
NFD = unicodedata.normalize("NFD", NFC)
TENCH = ("n01440764 tench", "n01443537 goldfish", "n02012849 crane", "n03126707 crane")


@pytest.mark.parametrize(
    ("names", "network_names", "labels"),
    [
        (("no tumor", "tumor"), ("no tumor", "tumor"), (0, 1)),
        (("tumor",), ("no tumor", "tumor"), (1,)),
        (("bell pepper", "pepper"), ("pepper", "bell pepper"), (1, 0)),
        (
            ("pepper", "bell pepper", "hot pepper"),
            ("hot pepper", "bell pepper", "pepper"),
            (2, 1, 0),
        ),
        ((NFD, "zoo"), ("zoo", NFC), (1, 0)),
        ((NFC,), ("zoo", NFD), (1,)),
        (("apple", "banana", "cherry"), ("Banana", "apple", "cherry"), (1, 0, 2)),
        (("STRASSE",), ("platz", "straße"), (1,)),
        (("Cat", "cat"), ("cat", "Cat"), (1, 0)),  # two classes of their own
        (("n03126707", "n01440764"), TENCH, (3, 0)),
        (("goldfish", "TENCH"), TENCH, (1, 0)),
        (("n01440764 tench, Tinca tinca",), TENCH, (0,)),  # one id, other words
        (TENCH[:2], ("goldfish", "n01440764"), (1, 0)),
        # Folders that are called by numbers, of a net trained on them here: in order of strings.
        (("0", "1", "10", "2"), ("0", "1", "2", "10"), (0, 1, 3, 2)),
    ],
)
def test_by_name(names, network_names, labels):
    found = match_labels("set", names, network_names)
    assert found.labels == labels and not found.note


def test_the_classes_of_imagenet_are_known_by_id():
    names = imagenet.class_names()
    ids = tuple(name.split(" ")[0] for name in names)
    assert match_labels("set", ids[::-1], names).labels == tuple(range(999, -1, -1))


@pytest.mark.parametrize(
    ("names", "network_names", "words"),
    [
        (("tumor", "healthy"), ("no tumor", "tumor"), "set .*: 'healthy'; .* are 'no tumor': "),
        (("cat", "dog"), ("x", "y"), "'cat', 'dog'; .* are 'x', 'y': .*--labels-by-position"),
        (("pepper",), ("bell pepper", "tomato"), "does not know: 'pepper'"),
        (("tumor",), ("no tumor", "n01 tumor"), "'tumor'"),  # no WordNet id
        (("0", "1"), ("cat", "dog"), "does not know: '0', '1'"),
        (("eight", "five"), ("0", "1"), "'eight', 'five'"),  # a net trained on numbers here
        (("crane",), TENCH, "'crane' is several of the network's: '2 n02012849 crane', '3 n0312"),
        (("n09999999 tench",), TENCH, "n09999999 tench"),
        (("cat", "CAT"), ("cat", "dog"), "'cat' and 'CAT' are both 'cat'"),
        (("n01440764", "tench"), TENCH, "both 'n01440764 tench'"),
        (("Cat",), ("cat", "CAT"), "several of the network's: '0 cat', '1 CAT'"),
        (("crane",), ("crane", "crane"), "several of the network's"),
    ],
)
def test_what_does_not_match_is_refused_in_one_line(names, network_names, words):
    with pytest.raises(UserError, match=words) as caught:
        match_labels("set", names, network_names)
    assert "\n" not in str(caught.value)


def test_position_is_no_way_out_for_another_number_of_classes():
    with pytest.raises(UserError) as caught:
        match_labels("set", ("cat", "dog"), ("x", "y", "z"))
    assert "labels_by_position" not in str(caught.value)
    with pytest.raises(UserError, match="2 classes and the network 3"):
        match_labels("set", ("cat", "dog"), ("x", "y", "z"), by_position=True)


def test_numbered_classes_are_positions():
    """torchvision's ImageFolder orders folders as strings."""
    folders = tuple(sorted(map(str, range(12))))
    found = match_labels("set", folders, tuple(map(str, range(12))), has_names=False)
    assert found.labels == tuple(range(12))
    assert "by position" in found.note and "'0', '1', '10', '11', '2'" in found.note
    with pytest.raises(UserError, match="2 classes and the network 12.*no names"):
        match_labels("set", ("0", "2"), tuple(map(str, range(12))), has_names=False)


def test_position_on_request_says_so():
    found = match_labels("set", ("b", "a"), ("a", "b"), by_position=True)
    assert found.labels == (0, 1) and "as asked for" in found.note


def test_an_order_that_depends_on_the_unicode_form_is_refused():
    """NFD sorts é as e, NFC behind z."""
    names = tuple(sorted((NFD, "crow")))
    with pytest.raises(UserError, match="depends on how '.*' is written"):
        match_labels("set", names, ("0", "1"), has_names=False)
    assert match_labels("set", names, ("0", "1"), has_names=False, by_position=True).labels


def test_labels_without_names_are_the_networks():
    found = match_labels("set", (), ("a", "b"))
    assert found.labels == (0, 1) and "no names" in found.note


@pytest.mark.parametrize(
    ("metadata", "is_named"),
    [
        ({"class_names": ["0", "1"]}, True),  # trained on folders 0 and 1
        ({"class_names": ["0", "1"], "source": "net.pth, PyTorch"}, False),  # of an older version
        ({"class_names": ["0", "2"], "source": "net.pth, PyTorch"}, True),
        ({"class_names": ["0", "1"], "source": "net.pth, PyTorch", "has_class_names": True}, True),
        ({"class_names": ["0", "1"], "has_class_names": False}, False),
    ],
)
def test_whether_metadata_have_names(metadata, is_named):
    assert has_class_names(metadata) == is_named


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("cat", "d\udce9g"), r"set: class name 'd\\udce9g' is not valid UTF-8"),
        (
            ("cat", NFC, NFD),
            r"two classes are called 'crème', written as 'cr\\xe8me' and 'cre\\u0300",
        ),
    ],
)
def test_class_names_that_cannot_be_told(names, words):
    with pytest.raises(UserError, match=words):
        check_class_names("set", names)
    check_class_names("set", ("Cat", "cat", NFC))
