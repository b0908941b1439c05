"""Measurements of speed and size; each module is a command."""
