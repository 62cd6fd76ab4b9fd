"""The parts of the plan validator. They read the plan's data and the graphs and share no code with the planner."""
