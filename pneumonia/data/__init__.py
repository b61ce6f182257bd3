"""Folders on disk -> batches. Knows no model."""
