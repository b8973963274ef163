"""A module as a function of flat parameters: bound, checked, its running statistics carried."""
