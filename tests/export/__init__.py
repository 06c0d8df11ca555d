"""The export, its proof, and what came of it."""
