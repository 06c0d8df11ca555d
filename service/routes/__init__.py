"""HTTP: from a request to the engine and back."""
