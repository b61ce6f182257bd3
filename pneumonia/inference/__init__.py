"""Checkpoint -> predictions. Imports neither lightning nor hydra."""
