"""Federated training with CO3 through Flower: the app at the repository's root, and comparisons of schemes.

``flwr run . --stream`` trains one model with one scheme; ``python -m simulations compare`` trains the same
model with several and writes a report.
"""
