"""A Flower app that trains a small network of scikit-learn on its handwritten digits."""
