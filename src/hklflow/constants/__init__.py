"""Constants of detectors: raw runs -> offset, noise, gain and status of every pixel."""
