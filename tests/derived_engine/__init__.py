"""An engine of somebody else's, on top of ours."""
