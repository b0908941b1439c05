"""An app whose model is large and whose training is an addition."""
