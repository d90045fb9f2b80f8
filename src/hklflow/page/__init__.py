"""HTML pages for people: one file each; nothing is loaded from other places."""
