"""Calibration of the detector geometry from measurements of known samples."""
