"""What happens when something is wrong: too much load, faults, damage, time. Each program checks every answer.

- `overload`, `fairness`, `soak`, `many`: too much load, unequal load, long load, many models.
- `chaos`, `faulty`: the service broken on purpose, and the encoder that fails on marked sequences.
- `interrupted`: bulk killed and shared.
- `fuzz`, `fuzz_artifacts`: damaged bodies, and damaged artifacts.
- `damage`: the ways to damage them.
- `multiplied`: small bodies that ask for much work.
"""
