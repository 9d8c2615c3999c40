"""Nets in few bytes."""
