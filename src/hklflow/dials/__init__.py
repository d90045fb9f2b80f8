"""DIALS as an engine: programs that are run, never imported."""
