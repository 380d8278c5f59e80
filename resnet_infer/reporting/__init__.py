"""Make what reports share: pages of HTML, charts, and values as text."""
