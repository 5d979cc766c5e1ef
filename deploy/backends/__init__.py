"""Runtimes that hold a model: one file each."""
