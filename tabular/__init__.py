"""The layers below the agents: transition tables, compiled kernels, exact values, and the pools that run calls."""
