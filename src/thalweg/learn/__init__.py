"""The job: from data to a trained model, in a run folder or a scikit-learn estimator."""
