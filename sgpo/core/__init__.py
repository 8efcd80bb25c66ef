"""What every method shares. Nothing in here knows which method is running."""
