"""The command `glmfleet`: the composition root for people."""
