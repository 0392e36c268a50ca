"""The norm of one linear map: proved brackets."""
