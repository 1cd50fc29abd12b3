"""A sweep file as written: its schema, its scale, its paper's numbers, its designs and checks."""
