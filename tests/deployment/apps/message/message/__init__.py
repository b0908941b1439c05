"""The app that most of these tests run."""
