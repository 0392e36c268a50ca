"""Randomized smoothing: noise, sampler, procedures and the run store."""
