"""A first recipe from what lies in a folder or table: looked at, reported, written with comments."""

from softalign.data.drafting.draft import Draft, draft_recipe

__all__ = ["Draft", "draft_recipe"]
