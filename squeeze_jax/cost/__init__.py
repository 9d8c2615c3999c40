"""Costs of a network: layers, parameters, MACs, and cycles and energy on an accelerator."""

from squeeze_jax.cost.design import design_costs

__all__ = ["design_costs"]
