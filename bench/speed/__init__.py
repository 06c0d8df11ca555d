"""How fast something is: ratios taken in one run on one machine.

`service` measures the service beside its peers and the raw limit, with `tune` (a peer's fastest settings), `measure`
(the loops), `raw` (ONNX Runtime alone), `report` (tables) and `plot` (figures). `scale` does so by CPUs, and `gpu` on
CUDA. `ledger` counts what each layer of a request takes, with `counted` (what runs under callgrind) and `bytecodes`.
`codecs`, `cost`, `schedule`, `start` and `training` each measure one part, and `path` traces what a request passes.
"""
