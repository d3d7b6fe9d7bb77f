"""Tables, figures and pages of experiment folders, from their files alone."""
