"""Simulated worlds with known truth, comparisons with it, and reference values.

Tests and benchmarks use it; a benchmark imports nothing else of tests.
"""

# It comes first: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
