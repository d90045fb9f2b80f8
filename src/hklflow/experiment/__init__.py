"""An experiment: its configuration and tables, paths, jobs, costs, and what is out of date."""
