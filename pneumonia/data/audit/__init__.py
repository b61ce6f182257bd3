"""What a folder holds, learnt before a model does: checks, tables and the rules for errors."""
