"""Training and evaluation of runs, and the jobs that the workflow calls."""
