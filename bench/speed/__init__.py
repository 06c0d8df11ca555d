"""How fast something is: ratios taken in one run on one machine.

`service` measures the service beside its peers and the raw limit, with `measure` (the loops), `raw` (ONNX Runtime
alone), `report` (tables) and `plot` (figures). `codecs`, `cost`, `schedule`, `start` and `training` each measure one
part, and `path` traces what a request passes.
"""
