"""The sequence encoder as torch modules: a padded batch and its lengths in, embeddings out.

- `config`: what an encoder is made of.
- `encoder`: the whole of it, from a batch to embeddings.
- `slopes`: how each step differs from its neighbours, beside the steps themselves.
- `recurrent`: its layers, exact for each row's own length.
- `reset_before`: the GRU that torch does not have.
- `pooling`: the outputs of all steps into one vector.
"""
