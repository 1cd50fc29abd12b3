"""Who follows a sweep: the live view, MLflow, Optuna's study."""
