"""What is done to volumes: symmetry, holes and their filling, pair distributions, cuts."""
