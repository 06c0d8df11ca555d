"""What is deployed beside the service, run for real."""
