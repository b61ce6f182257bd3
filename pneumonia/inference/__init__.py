"""A checkpoint -> answers. Imports neither lightning nor hydra."""
