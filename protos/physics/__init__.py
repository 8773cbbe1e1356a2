"""Time, energy and heat of a run, by formulas that devices and planner share."""
