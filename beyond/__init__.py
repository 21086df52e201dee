"""Extensions of the assignment: agents whose workers learn on their own, and agents that plan."""

from .dyna import DistributedDynaQAgent, DynaQAgent
from .federated import FederatedQLAgent, FederatedSARSAAgent

__all__ = ["DistributedDynaQAgent", "DynaQAgent", "FederatedQLAgent", "FederatedSARSAAgent"]
