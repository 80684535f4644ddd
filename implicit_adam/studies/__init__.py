"""Ready-made studies of any optimizer on any loss, run by the commands and notebooks."""
