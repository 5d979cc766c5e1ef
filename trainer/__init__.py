"""Labelled images -> checkpoint. The only package that needs torch (extra `train`)."""
