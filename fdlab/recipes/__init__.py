"""Recipes: settings as TOML, one folder a kind; `fdlab recipes` lists them."""
