"""The commands of `pneumonia`, each importing what it needs when it runs."""
