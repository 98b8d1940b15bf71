"""Published datasets seen from outside: found by name, compared, shown as pages."""
