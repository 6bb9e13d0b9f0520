"""How labels pass each kind of operator, and what else is known of it: one row an operator.

There are only a few kinds. Movement runs the same movement on the labels, pointwise operators unite what meets,
contractions unite what is summed over and pass on the rest, normalisations pass labels and note that a statistic
crosses them. `secateur.graph.operators` brings the rows of all kinds together.
"""
