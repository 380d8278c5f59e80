"""Choose how a model is run on this machine, and prove a choice before it is trusted."""
