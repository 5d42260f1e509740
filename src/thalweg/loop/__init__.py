"""The loop that every solve runs, and whose error counts together in it."""
