"""SqueezeNet and its descendants in JAX/Flax: design space, training, sweeps, costs, compression, export."""

__version__ = "0.1.0"
