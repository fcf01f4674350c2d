"""StepCLIP: learn step-by-step videos from nothing but their written scripts."""

__version__ = "0.1.0"
