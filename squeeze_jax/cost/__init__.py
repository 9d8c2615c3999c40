"""What a design point costs: layers, parameters, MACs, and cycles and energy on an accelerator."""
