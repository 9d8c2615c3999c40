"""The int8 engine in C: a network in integers, and the project that computes it on a device."""
