"""StepCLIP."""
