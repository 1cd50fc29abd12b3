"""Training: optimizers and schedules by name, and the loop around one model.

Importing this package costs nothing; `hymba_lab.training.fit` imports lightning (seconds).
"""
