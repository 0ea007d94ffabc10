"""The only door to MLflow: what an experiment writes there, and what is asked of it."""
