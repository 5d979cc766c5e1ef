"""Embeddings -> MatchEvent."""
