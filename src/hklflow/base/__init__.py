"""Foundations: errors, atomic files, the system, native libraries."""
