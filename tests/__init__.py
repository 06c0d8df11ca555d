"""The suite; `tests/oracle.py` is the judge."""
