"""A trained classifier as a value, and the pure functions that training and inference run."""

from squeeze_jax.network.config import ModelConfig
from squeeze_jax.network.functional import (
    abstract_model,
    build_model,
    forward,
    num_microbatches,
    predict,
    split_model,
    weight_shapes,
)
from squeeze_jax.network.metadata import validate_metadata
from squeeze_jax.network.network import Classifier, Network
from squeeze_jax.network.paths import (
    Tree,
    check_layer_patterns,
    is_kernel,
    layer_name,
    leaves_by_path,
    matches_layer,
    nest_leaves,
    replace_leaves,
)
from squeeze_jax.network.preprocessing import Preprocessing

__all__ = [
    "Classifier",
    "ModelConfig",
    "Network",
    "Preprocessing",
    "Tree",
    "abstract_model",
    "build_model",
    "check_layer_patterns",
    "forward",
    "is_kernel",
    "layer_name",
    "leaves_by_path",
    "matches_layer",
    "nest_leaves",
    "num_microbatches",
    "predict",
    "replace_leaves",
    "split_model",
    "validate_metadata",
    "weight_shapes",
]
