"""DIALS as an engine: hklflow runs the programs of DIALS and never imports them."""
