"""Triggers of users: from feeds to Pocket, Trello, Mastodon and webhooks, as a Django project."""
