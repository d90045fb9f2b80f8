"""A viewer of an experiment's results in a browser: a small server for this computer only."""
