"""Experiments: functions that return an Experiment. `skald configs` lists them; `default` needs no variant."""
