"""What happens when something is wrong: too much load, faults, damage, time.

`overload`, `fairness`, `soak` and `many` load the service; `chaos` breaks it, by `faulty`; `fuzz` damages bodies, and
`fuzz_artifacts` damages artifacts, by `damage`; `multiplied` sends small bodies that ask for much work. Each checks
every answer.
"""
