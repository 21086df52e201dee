"""What tabular learning stands on: tables, kernels, exact answers, and where calls run. It knows no agent."""
