"""Tables, plots and pages from what a run recorded."""
