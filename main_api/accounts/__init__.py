"""Accounts: who may call: users, API keys, tokens, and what was revoked."""
