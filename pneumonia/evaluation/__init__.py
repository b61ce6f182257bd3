"""Arrays of labels, scores and groups -> figures one can defend. Imports no model and no torch."""
