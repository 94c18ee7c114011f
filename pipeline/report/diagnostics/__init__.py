"""What a run has to show, as plain values: every picture, on a page or in a notebook, is drawn from these."""
