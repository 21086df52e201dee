"""What tabular learning stands on: tables, kernels, exact answers, and where calls run. Knows no lake and no agent."""
