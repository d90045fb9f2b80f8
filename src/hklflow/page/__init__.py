"""HTML pages for people: each page is one file, and nothing is loaded from a network."""
