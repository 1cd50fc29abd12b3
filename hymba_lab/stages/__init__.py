"""An experiment that goes on after its pretraining: tuned, evaluated, stage by stage."""
