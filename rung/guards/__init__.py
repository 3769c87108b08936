"""What is looked at once a tune is chosen: what its base forgot, and what it learned by heart."""
