"""stub."""
VERSION = 1
