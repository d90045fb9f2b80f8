"""Vectors of numbers in compiled kernels; only here numba's private interfaces are touched."""
