"""Other formats: importing features that others made, exporting ours."""
