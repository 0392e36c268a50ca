"""Certificates around one example: linear relaxation and the matrix recursion on the slopes that occur in the ball."""
