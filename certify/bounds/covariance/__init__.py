"""The covariance recursion: LipSDP tightness by a recursion of matrices, dense or one block per frequency."""
