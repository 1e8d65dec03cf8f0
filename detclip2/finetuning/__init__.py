"""Fine-tuning on a user's own data."""
