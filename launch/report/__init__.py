"""`skald report`: what a run's folder holds, as one HTML page that needs nothing else."""
