"""The papers' tables, figures and claims."""
