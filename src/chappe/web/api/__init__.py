"""The API under `/api` that the dashboard uses, and everybody may."""
