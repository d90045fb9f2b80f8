"""Figures of accuracy and speed: ``python -m benchmarks.NAME`` in the repository's folder.

Nothing outside imports a benchmark, and a benchmark imports nothing of tests but `tests.truth`.
"""
