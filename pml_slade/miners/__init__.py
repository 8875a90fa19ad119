"""Miners."""

from .threshold_pair_miner import ThresholdPairMiner

__all__ = ["ThresholdPairMiner"]
