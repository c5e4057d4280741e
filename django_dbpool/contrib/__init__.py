"""Connections to other libraries. Each module needs its library; nothing else imports them."""
