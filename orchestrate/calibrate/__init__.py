"""Measuring a cluster, and refitting its profile to what was measured.

`worker` measures on every rank; `profile` fits the parameters of a cluster's profile to the samples
with the planner's own formulas; `runs` and `refit` do the same with finished training runs. Only
what runs on the ranks (`worker`, `measure`, `links`) loads torch.
"""
