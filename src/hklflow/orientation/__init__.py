"""Find cell and orientation from a table of peaks: indexing, refinement, unexplained peaks."""
