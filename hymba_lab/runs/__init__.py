"""What is known of a run: its folder, its mirror in MLflow, where it comes from."""
