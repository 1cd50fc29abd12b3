"""Papers' claims against our runs: `python -m hymba_lab.claims`, without torch.

A file of `analysis/claims/` for each paper says what is claimed, where the paper says it, which
runs or probes speak of it, and what counts as reproduced; all files are judged as one. From the
exports in `results/` every comparison becomes one of

    reproduced          the interval of the effect lies where the claim says
    contradicted        the interval lies outside
    undecided           neither
    censored            about recall, and one side ended before it had solved the task
    not learned         about recall, and neither side learned it, or the positive control failed
    not judged          one side stands at a value that lost, or was not tuned for this metric
    not run             the rows or probes are not there at this scale

and `results/claims-<scale>.md` and `.csv` say so, each linked to its runs. What counts is how many
independent comparisons hold after correction for all of them (`counted`); costs are exact and stand
apart.
"""
