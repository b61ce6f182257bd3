"""Network, LightningModule, optimizer, checkpoint format, OOD detector."""
