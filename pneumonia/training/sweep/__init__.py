"""Hydra sweepers, and the table of their runs."""
