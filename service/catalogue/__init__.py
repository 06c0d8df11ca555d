"""Which encoders there are, and how a file becomes one of them.

`vetting` decides whether a file can be believed.
"""
