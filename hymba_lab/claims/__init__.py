"""The paper's claims against our runs: `python -m hymba_lab.claims`, without torch.

`analysis/claims.yaml` says what is claimed, where the paper says it, which runs or probes speak of
it, and what counts as reproduced. From the exports in `results/` every claim becomes one of

    reproduced          the interval of the effect lies where the claim says
    contradicted        the interval lies outside
    undecided           neither
    not run             the rows or probes are not there at this scale

and `results/claims-<scale>.md` and `.csv` say so, each linked to its runs.
"""
