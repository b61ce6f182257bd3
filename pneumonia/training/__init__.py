"""What a run adds around fit: checks, callbacks, resume, run record, sweeps."""
