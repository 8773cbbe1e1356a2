"""Time, energy and heat of runs, and the memory they need, by formulas that devices and planner share."""
