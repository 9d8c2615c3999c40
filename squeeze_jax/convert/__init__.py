"""Nets from other worlds, and to them: importers make a `Net` of a file, exporters a file of a `Net`.

This file imports nothing, so that a command loads only the libraries of the format it was asked for.
"""
