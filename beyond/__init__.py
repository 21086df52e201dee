"""Past the assignment, built on it: agents whose workers learn for themselves, and agents that plan."""

from .dyna import DistributedDynaQAgent, DynaQAgent
from .federated import FederatedQLAgent, FederatedSARSAAgent

__all__ = ["DistributedDynaQAgent", "DynaQAgent", "FederatedQLAgent", "FederatedSARSAAgent"]
