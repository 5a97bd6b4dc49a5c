"""Figures: measured numbers -> a drawing at two widths, with its caption, its alt text and its data table."""
