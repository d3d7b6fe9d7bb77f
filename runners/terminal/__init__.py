"""What commands share: arguments, errors, the live table."""
