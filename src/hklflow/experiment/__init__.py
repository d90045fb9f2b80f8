"""An experiment: its configuration and tables, paths, jobs, costs, and outdated products."""
