"""Limits with their reasons, and the verdict on a scan: passed, doubtful or failed."""
