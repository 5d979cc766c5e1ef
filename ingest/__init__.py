"""Cameras -> Frame."""
