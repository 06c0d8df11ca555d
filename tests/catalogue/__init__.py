"""Models, where they come from, and what is refused."""
