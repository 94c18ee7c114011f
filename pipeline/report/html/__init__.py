"""Pages to look at: an evaluation, a score or a study as one file of HTML that loads nothing."""
