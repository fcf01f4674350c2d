"""One model for all three: WeakSVR's losses, CARL's and TempCLR's on one temporal transformer."""
