"""Operations on frames: masks, statistics, frame scale, noise, sums and binning of pixels."""
