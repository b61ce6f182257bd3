"""The commands of `pneumonia`, one module each; each imports what it needs when it runs."""
