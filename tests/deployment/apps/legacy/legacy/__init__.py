"""An app of the older API: NumPyClient and flwr.server.strategy."""
