"""For the templates of the admin's pages."""
