"""What is done to frames: masks, statistics, frame scale, noise, sums and binning of pixels."""
