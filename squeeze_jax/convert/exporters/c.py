"""A project in C99 for microcontrollers: int8, with the engine's source, a test and a Makefile.

The file is a zip archive of the project's folder; `export` unpacks it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from squeeze_jax.convert.options import Option
from squeeze_jax.errors import UserError

if TYPE_CHECKING:
    from squeeze_jax.network import Classifier, Network

NAME = "c"
SUFFIX = ""  # a folder
OPTIONS = {
    "precision": Option(str, "int8", "of the weights and the computation", ("int8",)),
    "weights": Option(
        str,
        "coded",
        "entropy-coded and decoded while the net runs, or plain bytes, which takes more flash and "
        "less time",
        ("coded", "plain"),
    ),
}
TEST_IMAGES = 2


def write(network: "Network", options: Mapping[str, Any]) -> bytes:
    """Returns the files of the project in a zip archive.

    Args:
      network: the network.
      options: values of OPTIONS, and under "calibration" preprocessed images.

    Raises:
      UserError: there are no images, or the engine lacks an operator of the network.
    """
    from squeeze_jax.convert.c_engine import integer_net, project
    from squeeze_jax.cost.engine import make_plan

    calibration = options.get("calibration")
    if calibration is None or not len(calibration):
        raise UserError("int8 is calibrated on real images: give --data NAME and --data-dir DIR")
    net = integer_net.quantize(network, calibration)
    plan = make_plan(net.graph, coded=options["weights"] == "coded")
    images = net.input_scale.quantize(calibration[:TEST_IMAGES])
    return project.write(network, net, plan, images)


def open(content: bytes) -> "Classifier":
    """Compiles a project that `write` made, and returns the classifier that it is.

    The code of the archive runs: it must be our own.

    Raises:
      UserError: there is no C compiler, or it cannot compile the project.
    """
    from squeeze_jax.convert.c_engine import host

    return host.compile_project(content)
