"""Detections -> Embeddings."""
