"""Numbers and names that several packages of hklflow use."""

CELL_NAMES = ("a", "b", "c", "alpha", "beta", "gamma")
"""Names of the six numbers of a cell, in tables, files and figures."""

HC = 12398.419843320026
"""Planck's constant times the speed of light: energy in eV times wavelength in Å."""

MOST_FRAMES = 10_000_000
"""Largest plausible number of frames of a rotation."""

MOST_PIXELS = 1_000_000_000
"""Largest plausible number of pixels of a detector."""

NAME = r"[A-Za-z0-9][A-Za-z0-9.+-]*"
"""Pattern of the names of samples, scans, rotations, candidates and states."""

FIRST_PANEL = "first panel"
"""Text in the file of a picture that has the place of its first panel."""
