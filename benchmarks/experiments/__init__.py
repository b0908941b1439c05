"""Schemes that are tried in training and are no part of the package, with the command that trains them."""
