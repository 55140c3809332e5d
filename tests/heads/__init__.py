"""Exposing heads: every kind of classifier that can be, and the reason where one cannot."""
