"""Pure functions on arrays: no files, no configuration, no pictures."""
