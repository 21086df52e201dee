"""Past the assignment, built on it: agents whose workers learn for themselves."""

from .federated import FederatedQLAgent, FederatedSARSAAgent

__all__ = ["FederatedQLAgent", "FederatedSARSAAgent"]
