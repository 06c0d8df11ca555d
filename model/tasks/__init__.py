"""What encoders are trained to do: a module for each kind of task, known to all others as `Task`.

- `catalogue`: the tasks by name.
- `config`: how a task is trained.
- `task`: what every task is, and how sequences run through one.
- `head`: what makes a prediction of an embedding.
- `supervised`: the class of a sequence, or a number about it.
- `language`, `ngrams`: the next token, and the counts that it must beat.
- `similarity`: how alike two sequences are.
- `distil`: the vectors that a larger encoder gives.
- `selfsupervised`: what makes a sequence itself, without labels.
"""
