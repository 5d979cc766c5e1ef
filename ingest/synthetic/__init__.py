"""A seeded world whose truth is known, filmed by cameras that are decoded like any other."""
