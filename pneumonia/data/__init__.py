"""Folders and tables -> batches."""
