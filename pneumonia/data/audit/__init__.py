"""Audit of a data set before training: leaks, duplicates, shortcuts."""
