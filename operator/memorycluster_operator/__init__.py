"""The operator: observe what is, plan what to do, apply it."""
