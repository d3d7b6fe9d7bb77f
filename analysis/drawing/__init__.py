"""Tables and figures of any experiment."""
