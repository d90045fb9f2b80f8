"""Bragg reflections: integrated intensities, scaled and merged to structure factors."""
