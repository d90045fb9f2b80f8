"""HTML pages that people look at: one file each, nothing loaded from elsewhere."""
