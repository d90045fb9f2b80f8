"""From a table of peaks to cell and orientation: indexing, refinement, what is left over."""
