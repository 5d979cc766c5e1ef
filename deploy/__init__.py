"""Where everything meets; imported by nobody."""
