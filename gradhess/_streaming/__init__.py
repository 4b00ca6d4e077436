"""Streaming mean and covariance: update, merge, save, finish."""

from gradhess._streaming.covariance import StreamingCovariance

__all__ = ["StreamingCovariance"]
