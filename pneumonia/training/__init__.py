"""What surrounds a fit: configuration checks, pre-flight, callbacks, the run's record."""
