"""Data sets, read where users already have them, in their own layouts."""
