"""Backbone, LightningModule and optimisation. Knows no folder."""
