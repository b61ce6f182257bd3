"""The report of an evaluation: console, HTML, model card and files."""
