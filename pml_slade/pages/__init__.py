"""Pages that people open in a browser: one HTML file each, with all that it shows inside."""
