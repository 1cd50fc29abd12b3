"""Evaluation by the lm-evaluation-harness: suites, its tasks on models of the lab, results.

Needs the extra `evaluate`.
"""
