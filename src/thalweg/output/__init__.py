"""What a solve hands out besides its end: states at given times, and dense output."""
