"""What trained models do inside: maps, branches, removal, needle. `python -m hymba_lab.probes`.

Written per sweep, in `<out>/<sweep>/probes/`, one tidy CSV each; every file begins with the columns
`sweep, row, seed`, then:

| file | columns | value |
|---|---|---|
| mass.csv | data, layer, branch, head, category, value | share of a text token's map [fraction] |
| meta_attention.csv | data, layer, token, value | attention on one meta token [fraction] |
| entropy.csv | data, layer, branch, head, value, uniform | entropy of a row over tokens [nats] |
| distance.csv | data, layer, branch, value | mean distance the last token looks back [tokens] |
| erf.csv | data, tokens, cache_bytes, value | effective receptive field [tokens] |
| magnitudes.csv | data, layer, branch, what, value | see `branches` |
| removal.csv | layer, branch, metric, whole, value, change | metric with the branch silenced |
| needle.csv | length, depth, trained_length, n, chance, value, answered | accuracy [fraction] |

`data` is the label of a source (recall, text), `layer` counts from 0, `branch` is attention or ssm,
`head` counts attention heads and is empty for the SSM (a mean over its channels), `category` is
Meta, BOS, Self or Cross, and Sink where attention has one (they sum to 1); an entropy is of what a
sink leaves, made to sum to 1. `change` = value - whole, `answered` the share of answers that are a
value of the row, right or wrong. Maps are read from at most 16 sequences, evenly over the
validation of each source. `erf` and `distance` count text only: what goes to meta tokens or a sink
adds no distance; in `erf` a layer with both branches counts with their mean. What a model lacks has
no line, and a probe without lines no file.
"""
