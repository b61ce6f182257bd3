"""Labels, scores and patients -> metrics, intervals and the report. Imports no torch."""
