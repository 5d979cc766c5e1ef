"""One file per verb: load settings, wire, run. Heavy imports stand inside the functions."""
