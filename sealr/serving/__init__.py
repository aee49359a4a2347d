"""Answers requests: the recommender, the server, batch scoring and the model file that MLflow runs."""
