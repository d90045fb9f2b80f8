"""Numbers and names that several rooms need, each written down once."""

CELL_NAMES = ("a", "b", "c", "alpha", "beta", "gamma")
"""Names of the six numbers of a cell, as tables, files and figures have them."""

HC = 12398.419843320026
"""Planck's constant times the speed of light: energy in eV times wavelength in Å."""

MOST_FRAMES = 10_000_000
"""More frames than anybody measures in one rotation."""

MOST_PIXELS = 1_000_000_000
"""More pixels than any detector has."""

NAME = r"[A-Za-z0-9][A-Za-z0-9.+-]*"
"""Pattern of the names of samples, scans, rotations, candidates and states."""
