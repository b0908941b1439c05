"""An app of scikit-learn: logistic regression on its handwritten digits."""
