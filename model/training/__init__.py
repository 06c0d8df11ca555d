"""From a data set to a run directory: training, evaluation and report.

- `train`: the command that trains.
- `recipe`: what is chosen before a training.
- `defaults`: what is chosen without a recipe.
- `fit`: one training, from a data set to a run directory.
- `loop`: its epochs and steps.
- `cross_validate`: how a recipe does within the training sequences.
- `progress`: what it says while it runs.
- `run_directory`: what it leaves, and all that an export reads.
- `baselines`: what simpler methods reach on the same split.
- `probes`: what a trained task and its embeddings are worth.
- `few_labels`: what embeddings are worth if few sequences have labels.
- `evaluate`: the command that measures trained encoders.
- `report`, `figures`: the command that writes the report, and its pictures.
"""
