"""Exported files compute the net's logits in runtimes other than the one that checked them."""

import numpy as np
import pytest

from squeeze_jax.convert import exporters
from squeeze_jax.network import Network
from tests.convert.test_onnx import noise, random_net

SIZE = 47
# With a padded 1x1 convolution, with grouped convolutions, with a depthwise one, and with Dense.
NAMES = (
    "squeezenet_v1_0_released",
    "squeezenext_23_g",
    "mobilenet_v1",
    "squeezenet_complex_bypass",
)
TOLERANCE = 1e-4  # of the largest logit


@pytest.fixture(scope="module", params=NAMES)
def exported(request):
    """A net, its ONNX file, images [N, C, H, W], and the logits of Flax."""
    net: Network = random_net(request.param, SIZE)
    images = noise(2, SIZE)
    content, _ = exporters.export_network(net, "onnx", {"batch": 1}, images)
    expected = np.concatenate([net.classifier().run(image[None]) for image in images])
    return content, images.transpose(0, 3, 1, 2), expected


def check(found, expected):
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0)


@pytest.mark.slow
def test_onnx_in_openvino(exported):
    openvino = pytest.importorskip("openvino")
    content, images, expected = exported
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # bfloat16 where there is AMX
    model = core.compile_model(core.read_model(content, b""), "CPU")
    check(np.concatenate([model(image[None])[0] for image in images]), expected)


@pytest.mark.slow
def test_onnx_in_opencv(exported):
    cv2 = pytest.importorskip("cv2")
    content, images, expected = exported
    net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))

    def run(image):
        net.setInput(np.ascontiguousarray(image[None]))
        return net.forward()

    check(np.concatenate([run(image) for image in images]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_tflite_in_litert(name):
    pytest.importorskip("ai_edge_litert")
    net, images = random_net(name, SIZE), noise(2, SIZE)
    content, _ = exporters.export_network(net, "tflite", {}, images)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in images:
        interpreter.set_tensor(inputs["index"], image[None].astype(inputs["dtype"]))
        interpreter.invoke()
        found.append(interpreter.get_tensor(outputs["index"]))
    check(np.concatenate(found), np.concatenate([net.classifier().run(x[None]) for x in images]))
