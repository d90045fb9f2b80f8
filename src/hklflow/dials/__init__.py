"""DIALS as an engine: its programs are run, never imported."""
